"""The guard sees spikes and is not blinded by them; too many lead back and past the data; what was skipped is kept."""

import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ropewalk.checkpoint.load import list_checkpoints
from ropewalk.checkpoint.saver import Saver
from ropewalk.checkpoint.state import TrainState
from ropewalk.core.error import UserError
from ropewalk.core.record import TIMED, Metric, read_metrics
from ropewalk.core.run_folder import RunFolder, StageFolder
from ropewalk.core.seed import stream
from ropewalk.parallel.hang import Clock
from ropewalk.parallel.launch import RankError, run_ranks
from ropewalk.recipe.gates import Guard
from ropewalk.recipe.spec import Recipe
from ropewalk.train import loop, rollback, spike_guard
from ropewalk.train.replay import replay
from ropewalk.train.spike_guard import FEWEST, is_astray, judge_step, see
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe

NewRun = Callable[[str], Path]
Prepared = tuple[Path, Path]
GUARD = Guard()


def healthy(steps: int) -> list[tuple[float | None, float | None, bool]]:
    random = stream("guard")
    return [see(3 + 0.1 * random.normal(), math.exp(0.3 * random.normal()), taken=True) for _ in range(steps)]


def test_spikes_are_seen_and_wiggles_are_not() -> None:
    recent = healthy(FEWEST)
    assert judge_step(recent, 3.2, 2.0, guard=GUARD) == ""
    assert "the loss, 5, is" in judge_step(recent, 5.0, 1.0, guard=GUARD)
    assert "gradient norm" in judge_step(recent, 3.0, 14.0, guard=GUARD)
    assert judge_step(recent, 2.0, 0.001, guard=GUARD) == "", "less is no spike"
    assert judge_step(recent, 5.0, 14.0, guard=Guard(spike=None)) == ""
    assert judge_step(recent[:-1], 5.0, 1.0, guard=GUARD) == "", "too little is known"
    few = Guard(window=8)
    assert "the loss, 5, is" in judge_step(recent[:4], 5.0, 1.0, guard=few), "half of a short window is enough"
    assert judge_step(recent[:3], 5.0, 1.0, guard=few) == ""
    for loss, norm in ((math.nan, 1.0), (3.0, math.inf), (-math.inf, math.nan)):
        assert "not finite" in judge_step([], loss, norm, guard=Guard(spike=None))


def test_a_bad_value_does_not_blind_the_guard() -> None:
    """Mean and deviation of a window with one 1e9 in it, or one NaN, call nothing a spike for as long as it stays."""
    recent = [*healthy(60), see(1e9, math.nan, taken=False)]
    assert judge_step(recent, 3.1, 1.0, guard=GUARD) == ""
    assert judge_step(recent, 6.0, 1.0, guard=GUARD)


def test_a_new_level_becomes_the_level() -> None:
    recent, skipped = healthy(128), 0
    for _ in range(128):
        fault = judge_step(recent, 6.0, 1.0, guard=GUARD)
        recent = [*recent, see(6.0, 1.0, taken=not fault)][-GUARD.window :]
        skipped += bool(fault)
    assert 0 < skipped < 70 and not judge_step(recent, 6.1, 1.0, guard=GUARD)
    assert is_astray(recent, guard=GUARD) == (skipped > GUARD.skipped_steps)


def train(recipe: Recipe, run: Path, corpus: Path) -> str:
    return run_ranks(lambda: train_stage(recipe, stage=0, run=run, corpus=corpus), recipe.parallel.ranks, threads=1)[0]


def spoil_rows(first: int, last: int) -> Callable[..., Any]:
    """The text of these global rows is poison: on one rank, whenever they come by."""
    original = loop.train_step

    def step(state: Any, batches: Any, **settings: Any) -> Any:
        if state.cursor < last and state.cursor + batches.sequences > first and dist.get_rank() == 1:
            micro = dataclasses.replace(batches.micro[0], weights=batches.micro[0].weights * float("nan"))
            batches = dataclasses.replace(batches, micro=(micro, *batches.micro[1:]))
        return original(state, batches, **settings)

    return step


def rows_of(run: Path) -> list[Metric]:
    return [row for row in read_metrics(run / "metrics.jsonl") if row.name not in TIMED]


def wait_at_leisure(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a save has stopped the clock by which a hang is found: a save takes as long as its disk."""
    clocks: list[Clock] = []
    watch, finish = loop.watch_for_hang, Saver.finish

    @contextmanager
    def keep_clock(patience_seconds: float | None) -> Iterator[Clock]:
        with watch(patience_seconds) as clock:
            clocks.append(clock)
            yield clock

    def look(saver: Saver) -> None:
        assert clocks[-1]._leisure
        finish(saver)

    patch.setattr(loop, "watch_for_hang", keep_clock)
    patch.setattr(Saver, "finish", look)


ASTRAY = {"checkpoint_steps": 2, "log_steps": 2, "guard": {"skipped_steps": 1}}


def test_too_many_skips_lead_back_and_past_the_data(
    prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 5 and 6 are poison: back to step 4, whose successor takes the rows after them. A kill changes nothing."""
    monkeypatch.setattr(loop, "train_step", spoil_rows(16, 24))
    wait_at_leisure(monkeypatch)
    run, corpus = new_run("astray"), prepared[1]
    assert train(make_recipe(**ASTRAY), run, corpus) == "limit"
    state = json.loads((list_checkpoints(RunFolder(run).checkpoints(0))[0] / "state.json").read_text())
    assert (state["step"], state["cursor"], state["rollbacks"], state["skipped"]) == (8, 8 * 4 + 8, 1, 0)
    rows = rows_of(run)
    assert sorted({row.step for row in rows if row.name == "loss/train"}) == [*range(1, 9)]
    assert [(row.step, row.value) for row in rows if row.name == "rollbacks"] == [(6, 1), (8, 1)]
    (entry,) = rollback.read_history(StageFolder(run / "stages" / "0"))
    assert entry == {"from_step": 6, "to_step": 4, "cursor": 24, "skipped": 2}
    records = [json.loads(path.read_text()) for path in sorted((run / "stages" / "0" / "skipped").iterdir())]
    assert [(record["step"], record["first_sequence"]) for record in records] == [(5, 16), (6, 20)]
    row = records[0]["sequences"][0]
    assert row["source"] in ("plain", "counted") and row["segments"][0]["text"] and records[0]["loss"] is None

    killed = new_run("killed")
    original = rollback.write_whole

    def die(*args: Any) -> None:
        original(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch, pytest.raises(RankError, match="SIGKILL"):
        patch.setattr(rollback, "write_whole", die)
        train(make_recipe(**ASTRAY), killed, corpus)
    assert train(make_recipe(**ASTRAY), killed, corpus) == "limit"
    assert rows_of(killed) == rows and rollback.read_history(StageFolder(killed / "stages" / "0")) == [entry]


def test_rollbacks_that_are_not_recorded_are_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    state = TrainState(model, torch.optim.AdamW(model.parameters()), stage=0, cursor=24, rollbacks=1)
    folder = StageFolder(tmp_path)
    with pytest.raises(UserError, match=r"rollbacks is incomplete[\s\S]*after 1 rollback, and the file has 0"):
        rollback.go_past(state, folder)
    folder.rollbacks.write_text(json.dumps([{"to_step": 4, "cursor": 24}]))
    assert rollback.go_past(state, folder) is state


def test_it_goes_back_only_so_often(prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "train_step", spoil_rows(16, 10**9))
    changes = {**ASTRAY, "guard": {"skipped_steps": 1, "rollbacks": 1}}
    with pytest.raises(UserError, match=r"training is unstable[\s\S]*1 rollback did not help"):
        train(make_recipe(**changes), new_run("lost"), prepared[1])


def test_a_spike_is_skipped_and_replayed_row_by_row(
    prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Healthy steps, as many as are needed, then a step whose loss is large: the same again from the checkpoint.

    Eight are enough here. That 32 are needed is in ``test_spikes_are_seen_and_wiggles_are_not``.
    """
    healthy_steps = 8
    monkeypatch.setattr(spike_guard, "FEWEST", healthy_steps)
    recipe = make_recipe(
        tokens=(healthy_steps + 4) * 4 * 64,
        lr=1e-4,
        checkpoint_steps=4,
        guard={"spike": 8.0},
        parallel={"ranks": 2, "context_parallel": 2},
    )
    # The limit is reached by all steps together, and not by those up to the replayed one.
    limit = {"when_dry": "spread", "max_repeats": 0.7, "mix": {"plain": 3.0, "counted": 1.0}}
    recipe = recipe.model_copy(update={"corpus": recipe.corpus.model_copy(update=limit)})
    run, corpus = new_run("spike"), prepared[1]
    original = loop.train_step

    def spoil(state: Any, batches: Any, **settings: Any) -> Any:
        if state.step == healthy_steps + 1:
            for parameter in state.model.parameters():  # a bit has flipped somewhere
                with torch.no_grad():
                    parameter.mul_(3)
            seen = original(state, batches, **settings)
            for parameter in state.model.parameters():
                with torch.no_grad():
                    parameter.div_(3)
            return seen
        return original(state, batches, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", spoil)
        train(recipe, run, corpus)
    (path,) = (run / "stages" / "0" / "skipped").iterdir()
    record = json.loads(path.read_text())
    assert record["step"] == healthy_steps + 2 and "deviations above the median" in record["reason"]
    found = run_ranks(replay, 2, record, recipe, run, corpus)[0]
    assert not found["same"] and found["loss"] < record["loss"] and len(found["sequences"]) == 4
    loss = {row.step: row.value for row in rows_of(run) if row.name == "loss/train"}
    assert found["loss"] == pytest.approx(loss[healthy_steps + 1], rel=0.2), (
        "without the flipped bit it is a step like others"
    )

    healthy_record = {
        **record,
        "step": 6,
        "first_sequence": 5 * 4,
        "sequences": record["sequences"],
        "loss": loss[6],
    }
    norms = {row.step: row.value for row in rows_of(run) if row.name == "grad_norm"}
    again = run_ranks(replay, 2, {**healthy_record, "grad_norm": norms[6]}, recipe, run, corpus)[0]
    assert again["same"], "what data and weights explain comes out to the bit"
    with pytest.raises(UserError, match="this step cannot be reached again"):
        run_ranks(replay, 2, {**record, "rollbacks": 1}, recipe, run, corpus)
    assert RunFolder(run).stage(0).root.is_dir()
