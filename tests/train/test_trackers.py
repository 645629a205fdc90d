"""Trackers get what metrics.jsonl holds, also over a kill; a tracker that fails or is missing ends no run."""

import math
import os
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from finished_saves import finish_saves
from ropewalk.core.error import UserError
from ropewalk.core.record import Metric, read_metrics
from ropewalk.parallel.launch import RankError, run_ranks
from ropewalk.recipe import trackers as named
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.trackers import require_trackers
from ropewalk.train import loop, trackers
from ropewalk.train.stage import train_stage
from ropewalk.train.trackers import Sink, TrackedRun, Trackers
from tiny_run import make_recipe

NewRun = Callable[[str], Path]
Prepared = tuple[Path, Path]
ROWS = [[Metric(1, step, "loss/train", 3.0 / step, "nats"), Metric(1, step, "lr", 0.1, "1")] for step in range(1, 7)]


def train(recipe: Recipe, run: Path, corpus: Path, stage: int = 0) -> str:
    def on_rank() -> str:
        return train_stage(recipe, stage=stage, run=run, corpus=corpus)

    return run_ranks(on_rank, recipe.parallel.ranks, threads=1)[0]


def test_tensorboard_shows_the_rows_of_a_killed_and_resumed_run(
    prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = new_run("tracked")
    recipe = make_recipe().model_copy(update={"trackers": ("tensorboard",)})
    original = loop.train_step

    def die(state: Any, *args: Any, **settings: Any) -> Any:
        if state.step == 6:
            raise RuntimeError("killed")
        return original(state, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", die)
        finish_saves(patch)
        with pytest.raises(RankError):
            train(recipe, run, prepared[1])
    assert train(recipe, run, prepared[1]) == "limit", "from step 4: steps 5 and 6 were sent before, and are sent again"
    assert train(recipe, run, prepared[1], stage=1) == "limit"
    events = EventAccumulator(str(run / "trackers" / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    seen = {(name, event.step): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)}
    assert (
        max(Counter((name, event.step) for name in events.Tags()["scalars"] for event in events.Scalars(name)).values())
        == 1
    )
    expected = {(row.name, 8 * row.stage + row.step): row.value for row in read_metrics(run / "metrics.jsonl")}
    assert len(expected) > 100 and seen == pytest.approx(expected, rel=1e-6)


def track(name: Any, run: Path) -> None:
    """Six steps in two sessions, the second of which takes two of the first's steps again."""
    for first, last in ((0, 4), (2, 6)):
        with Trackers([name], TrackedRun(run, {"model": "tiny"}, 10 + first), steps_before=10) as sinks:
            for rows in ROWS[first:last]:
                sinks.log(rows)


def test_mlflow_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track("mlflow", tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/trackers/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("ropewalk").experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss/train")
    assert {each.step: each.value for each in history} == {10 + step: 3.0 / step for step in range(1, 7)}
    assert run.info.status == "FINISHED"


def test_wandb_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    track("wandb", tmp_path)
    files = sorted((tmp_path / "trackers" / "wandb").rglob("*.wandb"))
    assert len(files) == 2 and len({path.name for path in files}) == 1, "two sessions of one run"
    seen: dict[float, float] = {}
    for path in files:
        for data in read_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            items = {item.key or "/".join(item.nested_key): float(item.value_json) for item in record.history.item}
            if "loss/train" in items:
                seen[items["step"]] = items["loss/train"]
    assert seen == pytest.approx({10 + step: 3.0 / step for step in range(1, 7)})


def read_records(content: bytes) -> Iterator[bytes]:
    """What W&B's file holds: a header of 7 bytes, then LevelDB's log format, whose records may be cut at blocks."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part of one
            yield whole
            whole = b""


@pytest.mark.skipif(find_spec("trackio") is None, reason="not installed")
def test_trackio_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which it reads when it is imported
    track("trackio", tmp_path)
    with sqlite3.connect(tmp_path / "trackio" / "ropewalk.db") as database:
        rows = database.execute("select run_name, step from metrics").fetchall()
    assert len({name for name, _ in rows}) == 1 and {step for _, step in rows} == {10 + step for step in range(1, 7)}


class TornOffError(Exception):
    """What a library raises that nobody has heard of."""


@pytest.mark.parametrize("at", ["open", "log", "close"])
def test_a_tracker_that_fails_is_said_once_and_ends_nothing(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    got: list[int] = []

    def fail_at(place: str) -> None:
        if place == at:
            raise TornOffError("the server is gone")

    def log(step: int, values: Mapping[str, float]) -> None:
        fail_at("log")
        got.append(step)

    def opened(run: TrackedRun) -> Sink:
        fail_at("open")
        return Sink(log, lambda: fail_at("close"))

    monkeypatch.setitem(trackers.OPENERS, "wandb", opened)  # type: ignore[arg-type]
    with Trackers(["wandb"], TrackedRun(tmp_path, {}, 0)) as sinks:
        for rows in ROWS:
            sinks.log(rows)
    said = capfd.readouterr().err
    assert said.count("WARNING: the tracker wandb receives no more metrics, but training continues: TornOffError") == 1
    assert got == ([1, 2, 3, 4, 5, 6] if at == "close" else [])


def test_one_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()

    def hang(run: TrackedRun) -> Sink:
        os.read(reading, 1)
        return Sink(lambda step, values: math.nan, lambda: None)

    monkeypatch.setitem(trackers.OPENERS, "wandb", hang)  # type: ignore[arg-type]
    monkeypatch.setattr(trackers, "_CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(trackers, "_MOST_WAITING", 4)
    with Trackers(["wandb"], TrackedRun(tmp_path, {}, 0)) as sinks:
        sinks.log(ROWS[0])
    assert "did not end within" in capfd.readouterr().err
    with Trackers(["wandb"], TrackedRun(tmp_path, {}, 0)) as sinks:
        for rows in ROWS:
            sinks.log(rows)
    assert "it is 4 steps behind" in capfd.readouterr().err
    os.write(writing, b"xx")  # the threads end


def test_one_that_does_not_answer_keeps_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.OPENERS, "wandb", lambda run: os.read(os.pipe()[0], 1))  # type: ignore[arg-type,misc]
    monkeypatch.setattr(trackers, "_CLOSE_SECONDS", 0.2)

    def track() -> None:
        with Trackers(["wandb"], TrackedRun(tmp_path, {}, 0)) as sinks:
            sinks.log(ROWS[0])

    process = get_context("fork").Process(target=track)
    process.start()
    process.join(10)
    ended = process.exitcode
    process.kill()
    assert ended == 0, "a server that never answers would hold the machine of rank 0"


def test_a_missing_package_is_told_before_anything_is_trained(
    prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe().model_copy(update={"trackers": ("swanlab",)})
    monkeypatch.setattr(named, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the tracker swanlab is not installed") as raised:
        require_trackers(recipe.trackers)
    assert "ropewalk[track]" in raised.value.fix
    run = new_run("missing")
    with pytest.raises(UserError, match="the tracker swanlab is not installed"):
        train(recipe, run, prepared[1])
    assert not (run / "metrics.jsonl").exists()
    assert recipe.digest == make_recipe().digest, "what is shown where decides no result"
