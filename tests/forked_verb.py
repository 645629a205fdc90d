"""The command ``ropewalk``, or a program, in a process that is forked from the test, so nothing is imported again.

A fresh interpreter needs four seconds for torch and transformers. Here the parent has them, and the process has its own
session, signals, output and end, as if a shell had started it. What only a fresh interpreter shows (that a verb imports
no torch, torchrun, what a program lacks on its path) is tested with one.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from jaxtyping import config

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
    log.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_be_verb, args=(list(arguments), log, before))
    process.start()
    return Verb(process, log)


def _be_verb(arguments: list[str], log: Path, before: Callable[[], None] | None) -> None:
    _stand_alone(Path(os.devnull), log)
    if before is not None:
        before()
    sys.argv = ["ropewalk", *arguments]
    main()


def _stand_alone(out: Path, errors: Path) -> None:
    os.setsid()
    for path, number in ((out, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    # A fork's first thread to ask for torch's pool makes it anew; of two that ask at once, as transformers' readers of
    # weights do, one finds none.
    torch.set_num_threads(torch.get_num_threads())


def run_program(program: Sequence[str], log: Path, folders: Sequence[Path], seconds: float) -> int | None:
    """Run ``("-m", module, ...)`` or ``(path, ...)`` with ``folders`` first on its path; None if the time is over.

    What it writes is appended to ``log``. It computes in a new thread, as forked ranks do (parallel/forked.py). Types
    of arrays are not checked, as in an interpreter of its own.
    """
    process = multiprocessing.get_context("fork").Process(target=be_program, args=(list(program), log, log, folders))
    process.start()
    process.join(seconds)
    return None if end_group(process) else process.exitcode


def run_python(command: Sequence[str], **_: Any) -> "subprocess.CompletedProcess[str]":
    """In the place of ``subprocess.run`` for ``[sys.executable, "-P", program, ...]``: the program in a fork."""
    interpreter, flag, *program = command
    assert (interpreter, flag) == (sys.executable, "-P")
    with tempfile.TemporaryDirectory(prefix="ropewalk-fork-") as folder:
        log = Path(folder) / "said"
        code = run_program(program, log, [], seconds=110.0)
        return subprocess.CompletedProcess(command, 1 if code is None else code, "", log.read_text())


def end_group(process: BaseProcess) -> bool:
    """Kill a process that still runs, and what it started; whether it did."""
    if not process.is_alive():
        return False
    os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return True


def be_program(program: list[str], out: Path, errors: Path, folders: Sequence[Path], *, in_thread: bool = True) -> None:
    """Become a program: this process ends when it does, with its exit code.

    Signals reach its own code only with ``in_thread=False``; it then computes with one thread (parallel/forked.py).
    """
    if not in_thread:
        torch.set_num_threads(1)
    _stand_alone(out, errors)
    config.update("jaxtyping_disable", True)
    sys.path[:0] = map(str, folders)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for what it starts
    ends: list[int] = []

    def work() -> None:
        is_module, is_code = program[0] == "-m", program[0] == "-c"
        sys.argv = ["-c", *program[2:]] if is_code else program[is_module:]
        try:
            if is_code:
                exec(compile(program[1], "<string>", "exec"), {"__name__": "__main__"})
            elif is_module:
                runpy.run_module(program[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(program[0], run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            ends.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        except BaseException:
            traceback.print_exc()  # pytest would keep to itself what ends a thread
        else:
            ends.append(0)

    if in_thread:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        work()
    sys.exit(ends[0] if ends else 1)
