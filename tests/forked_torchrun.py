"""Ranks as torchrun starts them, forked from the test, so that none imports torch and transformers again.

Each has the environment that torchrun gives it, and the agent's store is this process's. What only fresh interpreters
and the agent itself show is tested with them: tests/test_examples.py, commands/test_run.py and commands/test_launch.py.
"""

import faulthandler
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from forked_verb import be_program, end_group

GRACE_SECONDS = 5.0
"""Of the other ranks after one has failed, and of one that takes too long, to write where it is."""


@dataclass(frozen=True)
class Ended:
    """How the ranks ended, and what all of them printed and wrote to standard error, rank by rank."""

    codes: tuple[int | None, ...]
    out: str
    errors: str


def run_as_torchrun(
    program: Sequence[str],
    ranks: int,
    folder: Path,
    *,
    seconds: float = 100.0,
    before: Callable[[], None] = lambda: None,
) -> Ended:
    """Run ``("-m", module, ...)`` or ``(path, ...)`` on ``ranks`` ranks in ``folder``. ``before`` is called in each.

    A rank that still runs after ``seconds`` writes its stacks to its errors. Then, or after another has failed, it is
    killed.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    processes, context = [], multiprocessing.get_context("fork")
    all_forked = context.Event()

    def begin(errors: Path) -> None:
        # The store's thread looks up the name of a rank that connects. A rank forked meanwhile would have a copy of the
        # C library's resolver whose lock is held, and nobody to free it.
        all_forked.wait()
        faulthandler.dump_traceback_later(seconds, file=errors.open("a"))
        before()

    logs = [(folder / f"out-{rank}.txt", folder / f"errors-{rank}.txt") for rank in range(ranks)]
    for rank, (out, errors) in enumerate(logs):
        out.write_text("")
        errors.write_text("")
        environment: dict[str, Any] = {
            "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "ROLE_RANK": rank, "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks, "ROLE_WORLD_SIZE": ranks, "MASTER_ADDR": "localhost", "MASTER_PORT": store.port,
            "TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0, "TORCHELASTIC_USE_AGENT_STORE": True,
            "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1,
        }  # fmt: skip
        texts = {name: str(value) for name, value in environment.items()}
        process = context.Process(target=_be_rank, args=(list(program), (out, errors), folder, texts, begin))
        process.start()
        processes.append(process)
    all_forked.set()
    deadline = time.monotonic() + seconds + GRACE_SECONDS
    left = {process.sentinel: process for process in processes}
    while left and time.monotonic() < deadline:
        for sentinel in wait(list(left), timeout=max(0.0, deadline - time.monotonic())):
            process = left.pop(sentinel)  # type: ignore[index]
            process.join()
            if process.exitcode:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    for process in processes:
        end_group(process)
    said = ["".join(pair[stream].read_text() for pair in logs) for stream in (0, 1)]
    return Ended(tuple(process.exitcode for process in processes), *said)


def _be_rank(
    program: list[str], log: tuple[Path, Path], folder: Path, environment: dict[str, str], begin: Callable[[Path], None]
) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    begin(log[1])
    be_program(program, *log, [], in_thread=False)
