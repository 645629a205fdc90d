"""Start ranks: forked on this machine, or in place where torchrun has started them already.

A forked rank starts and ends in 50 ms; a fresh interpreter takes three seconds to import torch. The surprise:
each rank computes in a thread of its own. OpenMP's workers do not survive a fork, and a forked main thread that asks
for them again would wait for ever; a new thread gets new ones, and the main thread is left to notice a dead parent.
"""

import os
import pickle
import signal
import socket
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from ropewalk.core.error import UserError, explain_disk_fault
from ropewalk.parallel.stop import answer_stop
from ropewalk.parallel.torchrun import is_first

_TIMEOUT = timedelta(minutes=10)
_GRACE_SECONDS = 0.2
_STOP_SECONDS = 0.5
_END_SECONDS = 10.0


class RankError(RuntimeError):
    """A rank raised, or was ended from outside; the message names it and carries its traceback."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    rank: int
    seconds: float
    """On the machine's monotonic clock: the first failure is the cause, later ones follow from it."""
    result: Any = None
    error: UserError | None = None
    trace: str = ""

    @property
    def failed(self) -> bool:
        return self.error is not None or bool(self.trace)


def run_ranks(function: Callable[..., Any], ranks: int, *args: Any, threads: int | None = None) -> list[Any]:
    """Call ``function(*args)`` on every rank, with a process group standing, and return the ranks' results in order.

    Forks ``ranks`` processes on this machine with ``threads`` torch threads each (default: torch's threads of this
    process, dealt out). Under torchrun the ranks exist already: the call is made in place. A rank's UserError is
    raised here as it is, any other failure as RankError naming the rank; the other ranks are then ended, as they are
    by Ctrl-C or when this process dies.
    """
    if "RANK" in os.environ:
        return _run_in_place(function, ranks, *args)
    threads = threads or max(1, torch.get_num_threads() // ranks)
    context = get_context("fork")
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    lifeline = os.pipe()
    with (
        tempfile.TemporaryDirectory(prefix="ropewalk-ranks-") as folder,
        os.fdopen(lifeline[1], "w") as held_end,
        _pass_on_stop(processes),
    ):
        try:
            for rank in range(ranks):
                ours, theirs = context.Pipe(duplex=False)
                seat = _Seat(rank, ranks, threads, Path(folder) / "store")
                process = context.Process(target=_be_rank, args=(seat, theirs, lifeline, function, args), daemon=True)
                with warnings.catch_warnings():  # python 3.12 warns of any fork beside threads; see the module's head
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
                theirs.close()
                processes.append(process)
                pipes.append(ours)
            results = _collect(processes, pipes)
            held_end.close()
            _stop(processes, patience_seconds=_END_SECONDS)
            return results
        finally:
            _stop(processes, patience_seconds=0.0)
            os.close(lifeline[0])


@contextmanager
def _pass_on_stop(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """A SIGTERM to this process goes to the ranks, which may have something to save; their end ends this one's wait.

    It stands before the first rank starts and until the last has ended, so that no signal finds the gap.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    parent = os.getpid()

    def pass_on(number: int, frame: FrameType | None) -> None:
        if os.getpid() != parent:  # a rank that has just been forked
            answer_stop(number, frame)
            return
        for process in processes:
            if process.is_alive():
                process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True, slots=True)
class _Seat:
    rank: int
    ranks: int
    threads: int
    store: Path


def _be_rank(
    seat: _Seat, pipe: Connection, lifeline: tuple[int, int], function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    """The life of a forked rank: another thread works, the main one waits for the parent to let go of the lifeline.

    So a rank outlives its work until every rank has reported: one that left earlier would close connections that
    slower ranks still read from.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the ranks
    signal.signal(signal.SIGTERM, answer_stop)
    reading_end, held_end = lifeline
    os.close(held_end)
    work = threading.Thread(target=_work, args=(seat, pipe, function, args))
    work.start()
    os.read(reading_end, 1)  # nobody writes: it returns when the parent's end is closed
    work.join(timeout=_STOP_SECONDS)
    if work.is_alive():
        os._exit(1)  # the parent is dead
    if dist.is_initialized():
        dist.destroy_process_group()


def _work(seat: _Seat, pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        torch.set_num_threads(seat.threads)
        if seat.rank:
            warnings.simplefilter("ignore")  # rank 0 says it once
        _join_group(seat)
        outcome = _Outcome(seat.rank, time.monotonic(), result=function(*args))
        # Not Connection.send: it would pass tensors by shared memory of a process that is about to end.
        message = pickle.dumps(outcome)
    except UserError as error:
        message = pickle.dumps(_Outcome(seat.rank, time.monotonic(), error=error))
    except OSError as error:
        fault = explain_disk_fault(error)
        trace = "" if fault else traceback.format_exc()
        message = pickle.dumps(_Outcome(seat.rank, time.monotonic(), error=fault, trace=trace))
    except BaseException:
        pipe.send_bytes(pickle.dumps(_Outcome(seat.rank, time.monotonic(), trace=traceback.format_exc())))
        raise SystemExit(1) from None  # ends this thread without a word: the parent raises the error, with our name
    pipe.send_bytes(message)
    pipe.close()


def _join_group(seat: _Seat) -> None:
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(seat.rank % torch.cuda.device_count())
    store = dist.FileStore(str(seat.store), seat.ranks)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=seat.rank, world_size=seat.ranks, timeout=_TIMEOUT)


def _run_in_place(function: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """Join the group that torchrun prepared, if nobody has, and call the function on this rank.

    What wants one rank only runs on the first, and the others wait for its result.
    """
    found = int(os.environ["WORLD_SIZE"])
    if found != ranks and ranks > 1:
        raise UserError(
            f"the recipe wants {ranks} ranks, torchrun started {found}",
            where="parallel.ranks",
            why="WORLD_SIZE is what torchrun was given (nodes x processes per node)",
            fix=f"start {ranks} processes, or set parallel.ranks={found}",
        )
    if not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend, timeout=_TIMEOUT)
    if ranks < found:
        return [_run_on_first(function, *args)]
    results: list[Any] = [None] * ranks
    dist.all_gather_object(results, function(*args))
    return results


def leave_ranks() -> None:
    """Part from the group that torchrun prepared, all at once: one that leaves early breaks gloo for the others."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _run_on_first(function: Callable[..., Any], *args: Any) -> Any:
    outcome: list[tuple[Any, UserError | None] | None] = [None]
    if is_first():
        try:
            outcome = [(function(*args), None)]
        except UserError as error:
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome, src=0)
    assert outcome[0] is not None
    result, fault = outcome[0]
    if fault is not None:
        raise fault
    return result


def _collect(processes: Sequence[BaseProcess], pipes: Sequence[Connection]) -> list[Any]:
    """Wait for every rank's outcome; at the first failure, look a moment longer for its cause, then raise it."""
    outcomes: dict[int, _Outcome] = {}
    killed: dict[int, float] = {}
    deadline: float | None = None
    open_pipes = dict(zip(pipes, range(len(pipes)), strict=True))
    while open_pipes and (deadline is None or time.monotonic() < deadline):
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
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


def _raise_cause(processes: Sequence[BaseProcess], outcomes: dict[int, _Outcome], killed: dict[int, float]) -> None:
    if killed:  # a rank that could not even speak; what the others say then is that they lost it
        rank = min(killed, key=lambda rank: killed[rank])
        processes[rank].join(timeout=_STOP_SECONDS)
        code = processes[rank].exitcode or 0
        reason = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
        hint = "; the system does that when memory runs out" if code == -signal.SIGKILL else ""
        raise RankError(f"rank {rank} of {len(processes)} failed: {reason}{hint}")
    first = min((outcome for outcome in outcomes.values() if outcome.failed), key=lambda outcome: outcome.seconds)
    if first.error is not None:
        raise first.error
    raise RankError(f"rank {first.rank} of {len(processes)} failed:\n{first.trace}")


def _stop(processes: Sequence[BaseProcess], *, patience_seconds: float) -> None:
    """Wait for the ranks to end, ask those that still run, kill those that do not listen."""
    for ask in (None, BaseProcess.terminate, BaseProcess.kill):
        alive = [process for process in processes if process.is_alive()]
        for process in alive:
            if ask is not None:
                ask(process)
        deadline = time.monotonic() + patience_seconds
        for process in alive:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
        patience_seconds = _STOP_SECONDS
