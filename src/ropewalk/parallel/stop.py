"""Stop in order on SIGTERM, SIGUSR1 or Ctrl-C: ranks that train finish their step and save, all other code ends.

Schedulers send one of these signals before they take the machine away. A *rank* inside ``listen_for_stop`` gets only a
flag; a rank outside of it ends at once, as by default. The *command* (``heed_stop``) ends with exit code 75: at once,
or when the ranks that it started have ended. Only a process's main thread can receive signals, but a forked rank
computes in another thread (forked.py), so both threads are needed.
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
from ropewalk.core.translate import translate_text
from ropewalk.parallel.torchrun import is_first, is_started

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_STOPPING = "stopping: a step that is being taken is finished and saved; Ctrl-C again ends at once"
_TWICE_SECONDS = 1.0
"""Under torchrun one Ctrl-C arrives twice within this time: from the terminal, and from torchrun."""
_listeners: list[threading.Event] = []


class Stopped(SystemExit):
    """The process has stopped on a signal. All finished work is on disk, and the same command continues it."""

    def __init__(self) -> None:
        super().__init__(STOPPED_CODE)


@dataclass
class _Heed:
    """The signals that arrived within ``heed_stop``. ``raised`` is true once Stopped has been raised."""

    owner: int
    numbers: tuple[signal.Signals, ...]
    asked: bool = False
    raised: bool = False
    interrupted_at: float | None = None


_heeds: list[_Heed] = []


@contextmanager
def heed_stop() -> Iterator[None]:
    """During the block, SIGTERM, SIGUSR1 and the first Ctrl-C raise Stopped; a second Ctrl-C KeyboardInterrupt.

    If ranks run, the signal is passed on to them, and Stopped is raised when they have ended. Otherwise it is raised
    at once. A block inside another such block, or outside of the main thread, has no effect.
    """
    if _heeds or threading.current_thread() is not threading.main_thread():
        yield
        return
    # A background job of a shell ignores Ctrl-C, and this must stay so.
    interrupts = () if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else (signal.SIGINT,)
    _heeds.append(_Heed(os.getpid(), (*SIGNALS, *interrupts)))
    before = {number: signal.signal(number, _end_in_order) for number in asking_signals()}
    try:
        yield
    except Stopped:
        if is_first() and os.getpid() == _heeds[0].owner:
            say("stopped on request, and saved: the same command continues from here")
        raise
    finally:
        _heeds.clear()
        for number, answer in before.items():
            signal.signal(number, answer)


def asking_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to stop. Ctrl-C is one of them only where it is handled."""
    return _heeds[0].numbers if _heeds else SIGNALS


def note_stop(number: int) -> None:
    """Record that this process was asked to stop. Raises KeyboardInterrupt for a second Ctrl-C."""
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
            told = translate_text(_STOPPING)
            os.write(2, f"\n{told}\n".encode(errors="replace"))  # not print: the signal may have interrupted one
    heed.asked = True


def is_asked() -> bool:
    """Return whether this process is inside ``heed_stop`` and was asked to stop."""
    return bool(_heeds) and _heeds[0].asked


def stop_if_asked() -> None:
    """Raise Stopped if this process is inside ``heed_stop`` and was asked to stop."""
    if is_asked():
        _heeds[0].raised = True
        raise Stopped


def _end_in_order(number: int, frame: FrameType | None) -> None:
    """Handle a signal in the main process while no ranks run."""
    if os.getpid() != _heeds[0].owner:  # this process is a fork, but not one of our ranks
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    note_stop(number)
    if not _heeds[0].raised:  # else the process is already ending
        stop_if_asked()


@contextmanager
def listen_for_stop() -> Iterator[Callable[[], bool]]:
    """During the block, the signals only set a flag. The yielded function reads the flag."""
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
    """Handle a signal in a rank's main thread: set the flags of all listeners, or end the process if there are none."""
    note_stop(number)
    for asked in _listeners:
        asked.set()
    if not _listeners:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
