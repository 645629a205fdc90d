"""SIGTERM and SIGUSR1 at twelve moments: the step is finished and saved, and from it the run comes to the same end."""

import os
import signal
import time
from typing import Any

import torch.distributed as dist

from faults.experiment import Experiment
from faults.ground import CONTEXT, STEPS, Ground, compare, make, train
from ropewalk.checkpoint import saver as saver_module
from ropewalk.checkpoint.load import list_checkpoints, step_of
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.launch import RankError
from ropewalk.train import loop, stage

_MOMENTS = (
    "loading",
    "step-0",
    "step-1",
    "step-3",
    "step-7",
    "step-11",
    "reading",
    "saving",
    "panel",
    "twice",
    "rank",
    "late",
)


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """A trial is "moment/signal"; unguarded, nobody listens."""
    moment, _, name = trial.partition("/")
    recipe, number = make(parallel=CONTEXT), signal.Signals[name]
    run, parent = ground.new_run(f"stop-{moment}-{name}"), os.getpid()
    asked_at = run / "asked"

    def ask(step: int) -> None:
        if dist.get_rank() == 0 and not asked_at.exists():
            asked_at.write_text(str(step))
            os.kill(os.getpid() if moment == "rank" else parent, number)
            if moment == "twice":
                os.kill(parent, number)
            time.sleep(0.05)  # a signal travels

    before = _arrange(moment, ask)
    if not guarded:
        _listen_to_nobody()
    straight = ground.straight(parallel=CONTEXT)
    try:
        ending = train(ground, run, recipe, before=before)
    except RankError as error:
        return f"the run died: {str(error).splitlines()[0]}"
    step = int(asked_at.read_text())
    saved = step_of(list_checkpoints(RunFolder(run).checkpoints(0))[0])
    if ending != ("limit" if step + 1 >= STEPS else "stopped"):
        return f"it ended with {ending}"
    if saved not in (step + 1, step + 2):  # the signal may reach the ranks when the step's last word is spoken
        return f"asked in step {step}, it saved step {saved}"
    train(ground, run, recipe)
    return compare(run, straight)


def _arrange(moment: str, ask: Any) -> Any:
    """Make ``ask(step)`` be called at that moment; returns what is to be called before each step."""
    steps = {"twice": 2, "rank": 4, "late": 9}
    if moment.startswith("step-") or moment in steps:
        at = steps.get(moment) or int(moment.partition("-")[2] or 0)
        return lambda state: ask(at) if state.step == at else None
    if moment == "loading":
        plain_begin = stage.begin_stage
        stage.begin_stage = _first(lambda: ask(0), plain_begin)
    elif moment == "reading":
        plain_take = loop.make_batches
        loop.make_batches = _first(lambda: ask(0), plain_take)
    elif moment == "saving":
        plain_write = saver_module.write_snapshot
        saver_module.write_snapshot = _first(lambda: ask(3), plain_write)
    else:
        plain_close = loop._average_metrics
        loop._average_metrics = _first(lambda: ask(3), plain_close)
    return None


def _first(before: Any, then: Any) -> Any:
    def both(*args: Any, **settings: Any) -> Any:
        before()
        return then(*args, **settings)

    return both


def _listen_to_nobody() -> None:
    from contextlib import contextmanager

    @contextmanager
    def listen() -> Any:
        yield lambda: False

    stage.listen_for_stop = listen


def _name(moments: Any) -> list[str]:
    return [f"{moment}/{'SIGTERM' if place % 2 else 'SIGUSR1'}" for place, moment in enumerate(moments)]


STOPS = Experiment(
    name="SIGTERM and SIGUSR1",
    promise="the step is finished and saved, and resumed it comes to the same end to the bit",
    control="nobody listens",
    trials=_name(_MOMENTS),
    controls=_name(_MOMENTS),
    quick=_name(_MOMENTS)[7:8],
    quick_controls=_name(_MOMENTS)[3:4],
    attempt=attempt,
)
