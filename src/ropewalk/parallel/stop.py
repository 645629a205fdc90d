"""A polite end: SIGTERM, SIGUSR1 or Ctrl-C asks for it. Ranks that train finish their step and save; all else ends.

Schedulers send one of them before they take the machine. Two things are told apart. A *rank* that says that it listens
is only told; who does not listen ends at once, as ever. The *command* (``heed_stop``) ends with exit code 75 wherever
the signal finds it: now, or when the ranks that it started have ended. The surprise is the two halves of a rank: only
a process's main thread may receive signals, and a forked rank computes in another thread (forked.py).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from ropewalk.core.error import STOPPED_CODE
from ropewalk.core.progress import say
from ropewalk.parallel.torchrun import is_first, is_started

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_TWICE_SECONDS = 1.0
"""Under torchrun one Ctrl-C comes twice: from the terminal, and passed on."""
_listeners: list[threading.Event] = []


class Stopped(SystemExit):
    """What was asked to stop has stopped, with all that is finished on disk: the same command goes on."""

    def __init__(self) -> None:
        super().__init__(STOPPED_CODE)


@dataclass
class _Heed:
    """What this process has been asked since it heeds; ``raised`` says that it is on its way out."""

    owner: int
    numbers: tuple[signal.Signals, ...]
    asked: bool = False
    raised: bool = False
    interrupted_at: float | None = None


_heeds: list[_Heed] = []


@contextmanager
def heed_stop() -> Iterator[None]:
    """For the length of the block, SIGTERM, SIGUSR1 and the first Ctrl-C raise Stopped, the second KeyboardInterrupt.

    At once, unless ranks run: then those are asked, and it is raised when they have ended. Within another such block,
    and outside of the main thread, this one changes nothing.
    """
    if _heeds or threading.current_thread() is not threading.main_thread():
        yield
        return
    # A shell's background job ignores Ctrl-C, and goes on doing so.
    interrupts = () if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else (signal.SIGINT,)
    _heeds.append(_Heed(os.getpid(), (*SIGNALS, *interrupts)))
    before = {number: signal.signal(number, _end_in_order) for number in asking_signals()}
    try:
        yield
    except Stopped:
        if is_first() and os.getpid() == _heeds[0].owner:
            say("stopped when asked, and saved: the same command goes on from here")
        raise
    finally:
        _heeds.clear()
        for number, answer in before.items():
            signal.signal(number, answer)


def asking_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask this process to stop: Ctrl-C is one of them where it is heeded."""
    return _heeds[0].numbers if _heeds else SIGNALS


def note_stop(number: int) -> None:
    """Remember that this process was asked to stop; raises KeyboardInterrupt for a second Ctrl-C."""
    if not _heeds:
        return
    heed = _heeds[0]
    if number == signal.SIGINT:
        now = time.monotonic()
        again = heed.interrupted_at is not None
        if heed.interrupted_at is not None and not (is_started() and now - heed.interrupted_at < _TWICE_SECONDS):
            raise KeyboardInterrupt
        heed.interrupted_at = now
        if is_first() and not again and not heed.asked:
            # Not print: it may be what the signal has interrupted.
            os.write(2, b"\nstopping: a step that is being taken is finished and saved; Ctrl-C again ends at once\n")
    heed.asked = True


def is_asked() -> bool:
    """Whether this process heeds signals and was asked to stop."""
    return bool(_heeds) and _heeds[0].asked


def stop_if_asked() -> None:
    """Raise Stopped if this process heeds signals and was asked to stop."""
    if is_asked():
        _heeds[0].raised = True
        raise Stopped


def _end_in_order(number: int, frame: FrameType | None) -> None:
    """What the main process does on a signal while no ranks run."""
    if os.getpid() != _heeds[0].owner:  # a fork that is no rank of ours
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    note_stop(number)
    if not _heeds[0].raised:  # else it is on its way out already
        stop_if_asked()


@contextmanager
def listen_for_stop() -> Iterator[Callable[[], bool]]:
    """For the length of the block the signals only set a flag, which the yielded function reads."""
    asked = threading.Event()
    _listeners.append(asked)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, answer_stop) for number in asking_signals() if main}
    try:
        yield asked.is_set
    finally:
        _listeners.remove(asked)
        for number, answer in before.items():
            signal.signal(number, answer)


def answer_stop(number: int, frame: FrameType | None) -> None:
    """What a rank's main thread does on a signal: tell the listeners, or die of it if there are none."""
    note_stop(number)
    for asked in _listeners:
        asked.set()
    if not _listeners:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
