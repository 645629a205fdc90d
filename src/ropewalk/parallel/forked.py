"""Run a function on forked ranks, and collect their results or errors in the parent process.

Each rank computes in a new thread, not in its main thread. The reason: OpenMP's workers do not survive a fork. A forked
main thread that uses OpenMP again would wait for ever, but a new thread gets new workers. The main thread only receives
signals and detects that the parent has died.
"""

import os
import pickle
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ropewalk.core.error import SIGNAL_SECONDS, RankError, UserError, explain_disk_fault
from ropewalk.core.progress import set_first
from ropewalk.parallel.device import explain_fork_fault, require_fork
from ropewalk.parallel.hang import take_place
from ropewalk.parallel.stop import SIGNALS, answer_stop
from ropewalk.plan.rank_setup import Kind

_GRACE_SECONDS = 0.2
_STOP_SECONDS = 0.5


class JoinError(RankError):
    """The ranks could not form a process group; the user's function has not been called yet."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result or the error of one rank. ``seconds`` is the machine's clock at the end of the rank.

    All ranks share this clock, so the earliest failure is the cause of the others.
    """

    rank: int
    seconds: float
    result: Any = None
    error: UserError | None = None
    trace: str = ""
    joined: bool = True

    @property
    def failed(self) -> bool:
        return self.error is not None or bool(self.trace)


@dataclass(frozen=True, slots=True)
class RankStart:
    """The place of one ``rank`` among ``ranks``, with ``threads`` threads and a device of ``kind``.

    A message between them may take ``message_seconds``.
    The ranks exchange their addresses through files in ``folder``.
    """

    rank: int
    ranks: int
    folder: Path
    threads: int
    kind: Kind
    deterministic: bool
    message_seconds: float


def be_rank(
    start: RankStart,
    pipe: Connection,
    lifeline: tuple[int, int],
    join: Callable[[RankStart], None],
    work: Callable[[], Any],
) -> None:
    """Run a forked rank: a new thread does the work, and the main thread waits until the parent closes the lifeline.

    So a rank lives on after its work until every rank has reported. A rank that ended earlier would close connections
    from which slower ranks still read.
    """
    set_first(start.rank == 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the ranks
    for number in SIGNALS:
        signal.signal(number, answer_stop)
    reading_end, held_end = lifeline
    os.close(held_end)
    # In the caller's context: a kernel that is named around run_ranks is named in the ranks too.
    worker = threading.Thread(target=copy_context().run, args=(_work, start, pipe, join, work))
    worker.start()
    while not wait([reading_end], timeout=SIGNAL_SECONDS):
        pass  # no process writes into the pipe: it is readable when the parent's end is closed
    worker.join(timeout=_STOP_SECONDS)
    if worker.is_alive():
        os._exit(1)  # the parent is dead
    if dist.is_initialized():
        dist.destroy_process_group()


def _work(start: RankStart, pipe: Connection, join: Callable[[RankStart], None], work: Callable[[], Any]) -> None:
    def pack(**facts: Any) -> bytes:
        # Not Connection.send: it would pass tensors in shared memory, and the owner of this memory is about to end.
        return pickle.dumps(Outcome(start.rank, time.monotonic(), **facts))

    joined = False
    try:
        torch.set_num_threads(start.threads)
        if start.kind == "cuda":
            require_fork()
        if start.rank:
            warnings.simplefilter("ignore")  # rank 0 alone prints warnings, so each appears once
        join(start)
        joined = True
        take_place(
            lambda: dist.FileStore(str(start.folder / "roll"), start.ranks),  # type: ignore[attr-defined]
            lambda cause: pipe.send_bytes(pack(trace=cause)),
        )
        message = pack(result=work())
    except UserError as error:
        message = pack(error=error)
    except OSError as error:
        fault = explain_disk_fault(error)
        message = pack(error=fault, trace="" if fault else traceback.format_exc(), joined=joined)
    except BaseException as error:
        fault = explain_fork_fault(error)
        pipe.send_bytes(pack(error=fault, trace="" if fault else traceback.format_exc(), joined=joined))
        raise SystemExit(1) from None  # ends this thread without a message: the parent raises the error with our rank
    pipe.send_bytes(message)
    pipe.close()


def collect(processes: Sequence[BaseProcess], pipes: Sequence[Connection]) -> list[Any]:
    """Wait for the outcome of every rank, and return the results in the order of ranks.

    After a first failure, wait a moment for earlier causes. Then raise the cause: a UserError as it is, any other
    failure as RankError, or as JoinError where the ranks had no process group yet.
    """
    outcomes: dict[int, Outcome] = {}
    killed: dict[int, float] = {}
    deadline: float | None = None
    open_pipes = dict(zip(pipes, range(len(pipes)), strict=True))
    while open_pipes and (deadline is None or time.monotonic() < deadline):
        left = SIGNAL_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
        for pipe in wait(list(open_pipes), timeout=left):
            assert isinstance(pipe, Connection)
            rank = open_pipes.pop(pipe)
            try:
                outcomes[rank] = pickle.loads(pipe.recv_bytes())
            except EOFError:
                killed[rank] = time.monotonic()
            if deadline is None and (rank in killed or outcomes[rank].failed):
                deadline = time.monotonic() + _GRACE_SECONDS
    if deadline is not None:
        _raise_cause(processes, outcomes, killed)
    return [outcomes[rank].result for rank in range(len(processes))]


def _raise_cause(processes: Sequence[BaseProcess], outcomes: dict[int, Outcome], killed: dict[int, float]) -> None:
    if killed:  # such a rank sent no outcome; the errors of the others only report the lost connection
        rank = min(killed, key=lambda rank: killed[rank])
        processes[rank].join(timeout=_STOP_SECONDS)
        code = processes[rank].exitcode or 0
        reason = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
        hint = "; the operating system does this when memory runs out" if code == -signal.SIGKILL else ""
        raise RankError(f"rank {rank} of {len(processes)} failed: {reason}{hint}")
    first = min((outcome for outcome in outcomes.values() if outcome.failed), key=lambda outcome: outcome.seconds)
    if first.error is not None:
        raise first.error
    kind = RankError if first.joined else JoinError
    raise kind(f"rank {first.rank} of {len(processes)} failed:\n{first.trace}")


def stop_ranks(processes: Sequence[BaseProcess], *, patience_seconds: float) -> None:
    """Wait for the ranks to end, then terminate those that still run, then kill those that do not react.

    The first wait takes at most ``patience_seconds`` for all ranks together.
    """
    for ask in (None, BaseProcess.terminate, BaseProcess.kill):
        alive = [process for process in processes if process.is_alive()]
        for process in alive:
            if ask is not None:
                ask(process)
        deadline = time.monotonic() + patience_seconds
        for process in alive:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
        patience_seconds = _STOP_SECONDS
