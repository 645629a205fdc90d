"""The command ``ropewalk`` in a process that is forked from the test, so nothing is imported again.

A fresh interpreter needs four seconds for torch and transformers. Here the parent has them, and the verb has its own
session, signals, output and end, as if a shell had started it. What only a fresh interpreter shows (that a verb imports
no torch, torchrun) is tested with one.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from ropewalk.cli.main import main


@dataclass(frozen=True)
class Verb:
    """A started command; ``log`` is the file of what it writes to standard error."""

    process: BaseProcess
    log: Path

    def wait(self) -> int:
        """The exit code, which is negative after a signal."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    @property
    def said(self) -> str:
        return self.log.read_text()


def start_verb(arguments: Sequence[str], log: Path, *, before: Callable[[], None] | None = None) -> Verb:
    """Start ``ropewalk`` with these arguments; ``before`` is called in its process first."""
    process = multiprocessing.get_context("fork").Process(target=_be_verb, args=(list(arguments), log, before))
    process.start()
    return Verb(process, log)


def _be_verb(arguments: list[str], log: Path, before: Callable[[], None] | None) -> None:
    os.setsid()
    for path, number in ((Path(os.devnull), 1), (log, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    if before is not None:
        before()
    sys.argv = ["ropewalk", *arguments]
    main()
