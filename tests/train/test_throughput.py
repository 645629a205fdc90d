"""Speed, MFU and time left against brute force; what a run writes of them, and that a slow rank is named in it."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from ropewalk.core.quantity import format_seconds
from ropewalk.core.record import Metric, read_metrics
from ropewalk.corpus.mix.dataset import open_dataset
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.parallel import slow
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.receipt import Rig
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.read import read_shape
from ropewalk.train import loop, throughput
from ropewalk.train.stage import train_stage
from ropewalk.train.throughput import Pace, Throughput
from tiny_run import make_recipe

NewRun = Callable[[str], Path]
Prepared = tuple[Path, Path]
RIG = Rig("CPU", "cpu", 1, 1, 1.0, "measured", 1.0, 1.0, None)


def shape_of(prepared: Prepared) -> Any:
    return read_shape(prepared[0] / "stages" / "0" / "extended")


def test_flops_are_those_of_the_pairs_in_the_rows(prepared: Prepared) -> None:
    shape = shape_of(prepared)
    documents = [5, 1, 30]
    multiplied = 0
    for length in documents:
        for query in range(length):
            attention = 2 * 2 * shape.query_width * (query + 1)
            block = 2 * shape.width * (shape.query_width + shape.kv_width) + 3 * shape.width * shape.mlp_width
            multiplied += shape.layers * (attention + 2 * block) + 2 * shape.vocabulary * shape.width
    assert Throughput(shape, RIG).step_flops(np.array(documents)) == pytest.approx(3 * multiplied)


def test_a_later_stage_is_foreseen_as_its_rows_will_be_packed(prepared: Prepared) -> None:
    recipe, shape, corpus = make_recipe(context_length=32), shape_of(prepared), open_corpus(prepared[1])
    spec = recipe.stages[1]
    sequences = spec.steps * spec.step_sequences
    dataset = open_dataset(
        corpus,
        mix=recipe.corpus.mix,
        context_tokens=32,
        sequences=sequences,
        seed=3,
        stage=1,
        max_repeats=100,
        rules=recipe.corpus,
    )
    packed = Throughput(shape, RIG).step_flops(
        np.array([n for sequence in range(sequences) for n in dataset.document_tokens(sequence)])
    )
    assert throughput._forecast_flops(recipe, spec, shape, corpus) == pytest.approx(packed, rel=0.05)
    left = Throughput(shape, RIG, later_flops=300.0).seconds_left(4, pace_seconds=2.0, step_flops=100.0)
    assert left == 4 * 2.0 + 3 * 2.0


def test_a_slow_first_step_and_a_hiccup_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def read() -> float:
        return now

    monkeypatch.setattr(throughput.time, "perf_counter", read)
    pace = Pace()
    for number, seconds in enumerate([60.0, 1.0, 1.1, 30.0, 0.9, 1.0]):
        now += seconds
        assert pace.end_step() == pytest.approx(seconds)
        assert pace.step_seconds == pytest.approx(60.0) or number
        now += 0.5
        pace.end_between()
    assert pace.step_seconds == pytest.approx(1.0 + 0.5)


def test_times_are_told_in_two_units() -> None:
    assert [format_seconds(each) for each in (4.6, 65, 7980, 200_000)] == ["5 s", "1 min 5 s", "2 h 13 min", "2 d 7 h"]


def train(recipe: Recipe, run: Path, corpus: Path) -> dict[str, list[Metric]]:
    run_ranks(lambda: train_stage(recipe, stage=0, run=run, corpus=corpus), recipe.parallel.ranks, threads=1)
    found: dict[str, list[Metric]] = {}
    for metric in read_metrics(run / "metrics.jsonl"):
        found.setdefault(metric.name, []).append(metric)
    return found


def test_a_rank_that_sleeps_is_named(
    prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    original = loop.train_step

    def sleep(*args: Any, **settings: Any) -> Any:
        time.sleep(0.5 * dist.get_rank())
        return original(*args, **settings)

    monkeypatch.setattr(loop, "train_step", sleep)
    monkeypatch.setattr(slow, "STEPS", 6)
    monkeypatch.setattr(slow, "_OFTEN", 4)
    monkeypatch.setattr(slow, "_RATIO", 1.1)  # a busy machine is slow on both ranks
    recipe = make_recipe()
    figures = train(recipe, new_run("slow"), prepared[1])
    assert [metric.value for metric in figures["slow_rank"]] == [1]
    assert figures["slow_ratio"][0].value > 1.1 and figures["busy_imbalance"][-1].value > 1.1
    assert f"rank 1 on {socket.gethostname()} is slow" in capfd.readouterr().err
    # And the other figures of the same run.
    assert len(figures["mfu"]) == len(figures["tokens_per_second"]) == 8
    assert all(0 < metric.value < 1 for metric in figures["mfu"]) and all(
        metric.value > 1e7 for metric in figures["peak_bytes"]
    )
    left = [metric.value for metric in figures["seconds_left"]]
    assert left[3] > 12 * 0.5 and left[-1] < left[3], "four steps, and a second stage of eight"
    assert sum(metric.value for name in ("mix/plain", "mix/counted") for metric in figures[name][-1:]) == pytest.approx(
        1
    )
