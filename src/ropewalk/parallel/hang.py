"""Find the rank that hangs: ranks tell their positions to each other, but only when training makes no progress.

Ranks run in step, so one rank that hangs stops all others within a step. A timeout would not name that rank. So each
rank has a clock of its own. When a rank makes no progress for too long, all ranks write their position into a store. A
rank that writes nothing is stopped or gone. A rank that computes while the others wait for it is stuck. On a GPU the
host only waits for the device, so there torch's flight recorder tells who is missing (flight_recorder.py). The stacks
are printed, and the ranks end.
"""

import faulthandler
import json
import linecache
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from types import FrameType, MappingProxyType
from typing import Any

import torch.distributed as dist

from ropewalk.core.strict_json import spell_json
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.flight_recorder import Groups, find_missing, read_recorders

_STEPS = 20
_LEAST_SECONDS, _MOST_SECONDS = 60.0, 480.0
_STDERR = 2
_WAITS = re.compile(r"\.wait\(")
_WAITS_AHEAD = re.compile(r"\.(wait|item|tolist|cpu|numpy|backward|synchronize)\(")
_DEVICE_WAITS = ("/torch/autograd/", "/torch/cuda/")


@dataclass(frozen=True)
class _Place:
    open_store: Callable[[], dist.Store]  # type: ignore[name-defined]
    report: Callable[[str], None]


_places: list[_Place] = []


def take_place(
    open_store: Callable[[], dist.Store],  # type: ignore[name-defined]
    report: Callable[[str], None],
) -> None:
    """Set the store for these positions and the function that reports a hang. What starts this rank calls it once.

    ``open_store`` opens a store that all ranks share. ``report`` gets the description of a hang before the rank ends.
    """
    _places[:] = [_Place(open_store, report)]


def has_place() -> bool:
    """Return whether this rank has been started and has a store for positions."""
    return bool(_places)


def open_place() -> dist.Store:  # type: ignore[name-defined]
    """Return a store into which all ranks of this start can write."""
    return _places[0].open_store()


class Clock:
    """The time of this rank's last step, and the longest time allowed since then.

    The allowed time is ``patience_seconds``; if that is None, it follows from the slowest step so far.
    """

    def __init__(self, patience_seconds: float | None) -> None:
        self._given, self._slowest = patience_seconds, 0.0
        self._moved = time.monotonic()
        self._leisure = False
        self.steps = 0

    def tick(self) -> None:
        """Record that this rank has finished one more step."""
        now = time.monotonic()
        if self.steps:  # the first step compiles and allocates
            self._slowest = max(self._slowest, now - self._moved)
        self._moved, self.steps = now, self.steps + 1

    def forgive(self) -> None:
        """Restart the clock: the time since the last tick does not count as a hang."""
        self._moved = time.monotonic()

    @contextmanager
    def at_leisure(self) -> Iterator[None]:
        """Stop the clock during the block. It is for work of any length outside of steps, such as a measurement.

        A slow disk is another example. A hang in such a block is found by the timeout of messages between ranks.
        """
        self._leisure = True
        try:
            yield
        finally:
            self._leisure = False
            self.forgive()

    @property
    def waited_seconds(self) -> float:
        return 0.0 if self._leisure else time.monotonic() - self._moved

    @property
    def patience_seconds(self) -> float:
        if self._given is not None:
            return self._given
        if self.steps < 2:
            return _MOST_SECONDS
        return min(max(_STEPS * self._slowest, _LEAST_SECONDS), _MOST_SECONDS)


@contextmanager
def watch_for_hang(patience_seconds: float | None) -> Iterator[Clock]:
    """During the block, end this rank if it makes no progress. Call ``tick`` of the yielded clock at every step."""
    clock, done = Clock(patience_seconds), threading.Event()
    thread = threading.Thread(
        target=_watch, args=(clock, done, threading.get_ident()), daemon=True, name="watch for a hang"
    )
    thread.start()
    try:
        yield clock
    finally:
        done.set()


def _watch(clock: Clock, done: threading.Event, worker: int) -> None:
    looked = time.monotonic()
    while not done.wait(min(1.0, clock.patience_seconds / 10)):
        now = time.monotonic()
        if now - looked > clock.patience_seconds / 2 + 1:
            clock.forgive()  # the job was suspended: the clocks of all ranks are out of date
        looked = now
        if clock.waited_seconds > clock.patience_seconds and _places:
            _end(clock, sys._current_frames().get(worker))
            return


def _end(clock: Clock, frame: FrameType | None) -> None:
    """Collect the positions of all ranks, print stacks, report the hang to this rank's starter, and end this process.

    Stacks are printed by each rank that is stuck and by one rank that waits.
    """
    rank, ranks = rank_and_ranks()
    store, waited_seconds = _places[0].open_store(), clock.waited_seconds
    stand = {"step": clock.steps, **tell_stand(frame, ahead=rank_device().type == "cuda")}
    patience_seconds = min(max(1.0, clock.patience_seconds / 4), 10.0)
    answers = _collect_answers(store, "positions", stand, ranks=range(ranks), wait_seconds=patience_seconds)
    if rank == min(answers) or not stand["waits"]:
        os.write(_STDERR, f"ropewalk: the stacks of rank {rank}, which makes no progress\n".encode())
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)
    # The first report ends all other ranks. So wait until all of them have printed their stacks. The recorders come
    # last: where a driver hangs, a rank may hang in them too.
    recorded = _collect_answers(store, "recorded", read_recorders(), ranks=answers, wait_seconds=patience_seconds)
    _places[0].report(describe_hang(answers, ranks, waited_seconds=waited_seconds, recorded=recorded))
    os._exit(1)


def _collect_answers(
    store: dist.Store,  # type: ignore[name-defined]
    name: str,
    mine: Mapping[str, Any],
    *,
    ranks: Iterable[int],
    wait_seconds: float,
) -> dict[int, Any]:
    """Write ``mine`` under ``name``, wait for the same of all ``ranks``, and return the entries by rank.

    After ``wait_seconds`` the ranks that have written nothing are left out.
    """
    deadline, missing, called = time.monotonic() + wait_seconds, set(ranks), sorted(ranks)
    store.set(f"{name}/{rank_and_ranks()[0]}", spell_json(mine))
    while missing and time.monotonic() < deadline:
        missing = {each for each in missing if not store.check([f"{name}/{each}"])}
        time.sleep(0.05)
    return {each: json.loads(store.get(f"{name}/{each}")) for each in called if each not in missing}


def describe_hang(
    answers: Mapping[int, Any],
    ranks: int,
    *,
    waited_seconds: float,
    recorded: Mapping[int, Groups] = MappingProxyType({}),
) -> str:
    """Describe a hang: a line with the rank that hangs, then the position of each rank, then the open messages.

    ``answers`` holds the positions of the ranks that answered, out of ``ranks`` ranks, and ``recorded`` the messages in
    their flight recorders.
    """
    absent = [rank for rank in range(ranks) if rank not in answers]
    missing, messages = find_missing(recorded)
    busy = missing or [rank for rank in answers if not answers[rank]["waits"]]
    if absent:
        culprit = f"{_name(absent)} not answer: the process was stopped, or its machine is gone"
    elif busy and len(busy) < ranks:
        culprit = f"{_name(busy)} not reach the point where the others wait"
    else:
        culprit = "no rank differs from the others"
    lines = [f"  rank {rank}: step {at['step']}, {at['where']}" for rank, at in sorted(answers.items())]
    return "\n".join([f"training has been hanging for {waited_seconds:.0f} s: {culprit}", *lines, *messages])


def _name(ranks: list[int]) -> str:
    return f"rank {ranks[0]} does" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} do"


def tell_stand(frame: FrameType | None, *, ahead: bool) -> dict[str, Any]:
    """Return a thread's position in the code, and whether it waits for a message.

    It waits if it is inside ``torch.distributed``, or in a call of ours to ``.wait(``. ``ahead`` says that the host
    runs ahead of its device: then it also waits, for all that the device has to do, where it reads a value,
    synchronises or stands in the backward pass.
    """
    waits = False
    while frame is not None:
        name = frame.f_code.co_filename
        waits = waits or "/torch/distributed/" in name or (ahead and any(part in name for part in _DEVICE_WAITS))
        if "/ropewalk/" in name:
            called = _WAITS_AHEAD if ahead else _WAITS
            waits = waits or bool(called.search(_read_call(frame)))
            place = f"{name.rpartition('/ropewalk/')[2]}:{frame.f_lineno} in {frame.f_code.co_name}"
            return {"where": place, "waits": waits}
        frame = frame.f_back
    return {"where": "outside ropewalk", "waits": waits}


def _read_call(frame: FrameType) -> str:
    """The lines of the expression that a thread is in."""
    first, last, *_ = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), (None, None))
    first, last = first or frame.f_lineno, last or frame.f_lineno
    return "".join(linecache.getline(frame.f_code.co_filename, line) for line in range(first, last + 1))
