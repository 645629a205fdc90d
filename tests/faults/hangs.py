"""A rank that is stopped or stuck: named, within its patience and a roll call."""

import os
import signal
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from faults.experiment import Experiment
from faults.ground import BOTH, Ground, make, train
from ropewalk.parallel import launch
from ropewalk.parallel.launch import RankError

PATIENCE_SECONDS = 3.0
_MOST_SECONDS = PATIENCE_SECONDS + 2.5
"""Patience, a roll call of a second, stacks, and the end of all ranks."""


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """A trial is "how-rank-step"; unguarded, only the timeout of messages speaks."""
    how, culprit, step = trial.split("-")
    run = ground.new_run(f"hang-{trial}")
    marker = run / "hangs"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def hang(state: Any) -> None:
        if state.step == int(step) and dist.get_rank() == int(culprit):
            marker.touch()
            if how == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(60)

    patience_seconds = PATIENCE_SECONDS
    if not guarded:
        patience_seconds, launch._TIMEOUT = 1000.0, timedelta(seconds=PATIENCE_SECONDS)
    try:
        train(ground, run, make(parallel={**BOTH, "hang_seconds": patience_seconds}), before=hang)
    except RankError as error:
        seconds = time.time() - marker.stat().st_mtime
        if f"rank {culprit} does not" not in str(error):
            return f"rank {culprit} is not named, but: {str(error).splitlines()[-1]}"
        return "" if seconds <= _MOST_SECONDS else f"told only after {seconds:.1f} s"
    return "it went on"


HANGS = Experiment(
    name="a rank that hangs",
    promise=f"named, of four, within {_MOST_SECONDS:g} s at a patience of {PATIENCE_SECONDS:g} s",
    control="the timeout of the process group alone, of the same length",
    trials=["stop-0-2", "stop-1-3", "stop-2-5", "stop-3-7", "sleep-1-4"],
    controls=["stop-0-2", "stop-1-3", "stop-2-5", "stop-3-7", "sleep-1-4"],
    quick=[],  # tests/parallel/test_hang.py
    quick_controls=[],
    attempt=attempt,
)
