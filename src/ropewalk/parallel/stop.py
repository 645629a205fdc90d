"""A polite end: SIGTERM or SIGUSR1 asks the ranks to stop at the next safe place, if they said that they listen.

Schedulers send one of them before they take the machine. Who does not listen ends at once, as ever. The surprise is the
two halves: only a process's main thread may receive signals, and a forked rank computes in another thread (forked.py).
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_listeners: list[threading.Event] = []


@contextmanager
def listen_for_stop() -> Iterator[Callable[[], bool]]:
    """For the length of the block the signals only set a flag, which the yielded function reads."""
    asked = threading.Event()
    _listeners.append(asked)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, answer_stop) for number in SIGNALS if main}
    try:
        yield asked.is_set
    finally:
        _listeners.remove(asked)
        for number, answer in before.items():
            signal.signal(number, answer)


def answer_stop(number: int, frame: FrameType | None) -> None:
    """What a rank's main thread does on a signal: tell the listeners, or die of it if there are none."""
    for asked in _listeners:
        asked.set()
    if not _listeners:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
