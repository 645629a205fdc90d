"""An experiment is a promise and trials that try to break it, each in a process of its own."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from faults.ground import Ground

TRIAL_SECONDS = 150.0


@dataclass(frozen=True)
class Experiment:
    """``attempt(ground, trial, guarded)`` returns what went wrong, empty if the promise held.

    ``controls`` are trials with ``guarded=False``, where something must go wrong. ``quick`` and ``quick_controls`` are
    what ``make test`` takes.
    """

    name: str
    promise: str
    control: str
    trials: Sequence[str] | Callable[[Ground], Sequence[str]]
    controls: Sequence[str]
    quick: Sequence[str]
    quick_controls: Sequence[str]
    attempt: Callable[[Ground, str, bool], str]


@dataclass(frozen=True)
class Result:
    """One trial's end. ``fault`` is what went wrong."""

    experiment: str
    trial: str
    guarded: bool
    fault: str
    seconds: float

    @property
    def as_promised(self) -> bool:
        """Whether it held, or, of a control, whether it came to harm."""
        return self.guarded == (not self.fault)


def run_trial(experiment: Experiment, ground: Ground, trial: str, *, guarded: bool) -> Result:
    """One trial in a forked process, which is ended with its children if it takes too long."""
    begun = time.monotonic()
    fault = isolate(experiment.attempt, ground, trial, guarded)
    return Result(experiment.name, trial, guarded, fault, round(time.monotonic() - begun, 2))


def isolate(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)`` in a forked process; an exception or a missing answer comes back as its text."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, args))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(TRIAL_SECONDS) else "the harness gave up waiting"
    except EOFError:
        return "the process of the trial died without an answer"
    finally:
        process.join(timeout=5)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()


def _answer(pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.setsid()  # so that all of it can be ended
    try:
        pipe.send(function(*args))
    except Exception:
        pipe.send(traceback.format_exc())
