"""Find a rank that is slower than the others. Ranks run in step, so one slow rank slows all of them.

The step takes equally long on all ranks, so its duration does not show the slow rank. Only the waiting time differs. So
a thread checks fifty times a second whether the computing thread waits for a message (``tell_stand`` in hang.py). The
rest of the time is the rank's own time. On an accelerator the host only submits work, so there a slow host is found,
but not a slow device.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, median_low

from ropewalk.parallel.device import rank_device
from ropewalk.parallel.hang import tell_stand

_PAUSE_SECONDS = 0.02
STEPS, _OFTEN = 16, 12
"""A rank must be slow over the sum of ``STEPS`` steps, and in at least ``_OFTEN`` of them."""
_RATIO, _DEVIATIONS, _NORMAL = 1.5, 6.0, 1.4826
_LEAST_SECONDS = 0.005
"""Own time per step below which no rank is called slow: fifty checks a second are too few to measure it."""


class OwnTime:
    """The time in which the computing thread did not wait for another rank."""

    def __init__(self, worker: int) -> None:
        self._worker, self._lock = worker, threading.Lock()
        self._looked, self._busy_seconds = time.perf_counter(), 0.0

    def look(self) -> None:
        """Count the time since the last call as work or as waiting, by the current state of the thread."""
        frame = sys._current_frames().get(self._worker)
        now = time.perf_counter()
        with self._lock:
            if not tell_stand(frame, ahead=rank_device().type == "cuda")["waits"]:
                self._busy_seconds += now - self._looked
            self._looked = now

    def take(self) -> float:
        """Return this rank's own time since the last call, in seconds."""
        with self._lock:
            seconds, self._busy_seconds = self._busy_seconds, 0.0
        return seconds


@contextmanager
def watch_own_time() -> Iterator[OwnTime]:
    """During the block, measure the own time of the calling thread. Yields the measurement."""
    own, done = OwnTime(threading.get_ident()), threading.Event()

    def watch() -> None:
        while not done.wait(_PAUSE_SECONDS):
            own.look()

    thread = threading.Thread(target=watch, daemon=True, name="watch own time")
    thread.start()
    try:
        yield own
    finally:
        done.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class Slow:
    """A rank that the others wait for. ``ratio`` is its own time divided by the median rank's own time."""

    rank: int
    ratio: float


class SlowWatch:
    """Finds the slow rank from the own times of each step. All ranks use the same numbers and get the same result."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, ...]] = deque(maxlen=STEPS)
        self._uneven: deque[float] = deque(maxlen=STEPS)
        self._named: int | None = None

    def judge(self, own_seconds: Sequence[float], *, imbalance: float) -> Slow | None:
        """Return the rank that has become slow with this step, else None. A rank that stays slow is returned once.

        ``own_seconds`` holds the own time of each rank. ``imbalance`` is the busiest rank's attention work divided by
        the mean: a rank that was given more work is not slow.
        """
        self._steps.append(tuple(own_seconds))
        self._uneven.append(imbalance)
        slow = self._find()
        new = slow is not None and slow.rank != self._named
        self._named = None if slow is None else slow.rank
        return slow if new else None

    @property
    def ratio(self) -> float:
        """The busiest rank's own time divided by the median rank's, over the last steps."""
        sums = self._sums
        return max(sums) / max(median_low(sums), 1e-9)

    @property
    def _sums(self) -> list[float]:
        return [sum(rank) for rank in zip(*self._steps, strict=True)]

    def _find(self) -> Slow | None:
        sums = self._sums
        if len(self._steps) < STEPS or len(sums) < 2:
            return None
        rank, middle = max(range(len(sums)), key=sums.__getitem__), median_low(sums)
        allowed = _RATIO * median(self._uneven)
        deviation = _NORMAL * median(abs(each - middle) for each in sums) if len(sums) > 2 else 0.0
        often = sum(step[rank] > allowed * median_low(step) for step in self._steps)
        stands_out = sums[rank] > max(allowed * middle, middle + _DEVIATIONS * deviation, STEPS * _LEAST_SECONDS)
        return Slow(rank, sums[rank] / max(middle, 1e-9)) if stands_out and often >= _OFTEN else None
