"""Start ranks: fork them on this machine, or use the processes that torchrun has already started.

A forked rank starts and ends in 50 ms; a fresh interpreter takes three seconds to import torch (forked.py). Every start
has a new store. A store of an earlier attempt holds addresses of ranks that no longer exist. Each rank has a GPU of its
own, or all ranks run on the CPU (plan/rank_setup.py).
"""

import os
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import numpy.ma  # noqa: F401 - np.unique imports it at its first call: here once, not in each forked rank
import torch
import torch.distributed as dist

from ropewalk.core.error import RankError, UserError
from ropewalk.core.progress import say
from ropewalk.core.quantity import format_count
from ropewalk.parallel.device import choose_rank_kind, require_fork, take_device
from ropewalk.parallel.forked import JoinError, RankStart, be_rank, collect, stop_ranks
from ropewalk.parallel.hang import take_place
from ropewalk.parallel.rank_zero import first_does, open_torchrun_store
from ropewalk.parallel.stop import Stopped, answer_stop, asking_signals, is_asked, note_stop, stop_if_asked
from ropewalk.parallel.torchrun import count_started_here, is_first, is_started
from ropewalk.plan.rank_setup import Kind, RankSetup

__all__ = ["RankError", "leave_ranks", "run_ranks"]

_JOIN_TIMEOUT = timedelta(minutes=2)
_STARTS = 3
"""The most attempts to start the ranks. On a busy machine one start in 300 forms no group, and it is repeated."""
_NO_ADDRESS = "Unable to find address for"
"""What gloo says where the interface has none, which no other start changes."""
_END_SECONDS = 10.0


_ENVIRONMENT = {
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}
"""Switches on torch's flight recorder, which hang.py reads. NCCL's own timeout also writes it to a file."""
_ALLOCATOR_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_EXPANDABLE = "expandable_segments:True"
"""Lengths differ from step to step, and segments that grow are not left over in pieces."""


def run_ranks(
    function: Callable[..., Any],
    ranks: int,
    *args: Any,
    threads: int | None = None,
    setup: RankSetup = RankSetup(),  # noqa: B008 - frozen
) -> list[Any]:
    """Call ``function(*args)`` on every rank, within a process group, and return the results in the order of ranks.

    Forks ``ranks`` processes on this machine with ``threads`` torch threads each (default: torch's threads of this
    process, divided among the ranks) and the devices of ``setup``. Under torchrun the ranks exist already, and the call
    is made in this process; the first call sets it up. Context variables, such as those of ``use_kernel`` and
    ``use_recurrent_kernels``, have the caller's values on every rank.

    A UserError of a rank is raised here as it is; any other failure is raised as RankError with the rank's number. The
    other ranks are then ended. They are also ended by Ctrl-C, or when this process dies. Raises UserError where the
    ranks cannot have the devices that ``setup`` asks for, and Stopped where signals are handled (stop.py) and this
    process was asked to stop.
    """
    if is_started():
        return _run_in_place(function, ranks, *args, setup=setup)
    if "RANK" in os.environ and dist.is_initialized():  # torchrun's first rank alone: no fork, a GPU may be in use
        assert ranks == 1, "beside the group that torchrun prepared there is no other"
        return [function(*args)]
    threads = threads or max(1, torch.get_num_threads() // ranks)
    kind = _choose_kind(setup, ranks)
    if kind == "cuda":
        require_fork()
    for left in reversed(range(_STARTS)):
        try:
            results = _run_forked(
                partial(function, *args),
                ranks,
                lambda rank, folder: RankStart(
                    rank, ranks, folder, threads, kind, setup.deterministic, setup.message_seconds
                ),
            )
        except RankError as error:
            stop_if_asked()  # a rank that was ended by a signal is not an error
            if _NO_ADDRESS in str(error):
                raise UserError(
                    "the ranks of this machine cannot reach each other",
                    where="the network interface lo",
                    why="it has no address: it is not up, as in a container or a namespace without a network",
                    fix="set the interface up in that container (`ip link set lo up`)",
                ) from None
            if not left or not isinstance(error, JoinError):
                raise
            say(f"the ranks could not connect to each other, and are started again: {str(error).splitlines()[-1]}")
        else:
            stop_if_asked()
            return results
    raise AssertionError("the last start returns or raises")


def _run_forked(work: Callable[[], Any], ranks: int, make_start: Callable[[int, Path], RankStart]) -> list[Any]:
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
                stop_if_asked()  # a rank that is not started yet did not get the signal
                ours, theirs = context.Pipe(duplex=False)
                start = make_start(rank, Path(folder))
                process = context.Process(
                    target=be_rank, args=(start, theirs, lifeline, _join_group, work), daemon=True
                )
                with warnings.catch_warnings():  # python 3.12 warns of any fork beside threads; see forked.py
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
                theirs.close()
                processes.append(process)
                pipes.append(ours)
            stop_if_asked()
            results = collect(processes, pipes)
            held_end.close()
            stop_ranks(processes, patience_seconds=_END_SECONDS)
            return results
        finally:
            stop_ranks(processes, patience_seconds=0.0)
            os.close(lifeline[0])


@contextmanager
def _pass_on_stop(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """During the block, pass a signal that stops this process on to the ranks, which may have something to save.

    When the ranks end, the wait for them ends too. Where Ctrl-C is handled, the ranks get SIGTERM instead: they belong
    to the terminal's process group, and they ignore Ctrl-C. The block begins before the first rank starts and ends
    after the last rank has ended, so that no signal is lost between.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    parent = os.getpid()

    def pass_on(number: int, frame: FrameType | None) -> None:
        if os.getpid() != parent:  # this process is a rank that has just been forked
            if number != signal.SIGINT:
                answer_stop(number, frame)
            return
        note_stop(number)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM if number == signal.SIGINT else number)  # type: ignore[arg-type]

    before = {number: signal.signal(number, pass_on) for number in asking_signals()}
    try:
        yield
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)


def _join_group(start: RankStart) -> None:
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    store = dist.FileStore(str(start.folder / "store"), start.ranks)  # type: ignore[attr-defined]
    device = _set_up_rank(start.kind, start.rank, start.deterministic)
    _init_group(store, start.rank, start.ranks, device=device, message_seconds=start.message_seconds)


def _choose_kind(setup: RankSetup, ranks: int, *, speaks: bool = True) -> Kind:
    kind, line = choose_rank_kind(setup, ranks=ranks)
    if speaks and line:
        say(line)
    return kind


def _set_up_rank(kind: Kind, index: int, deterministic: bool) -> torch.device:
    """Set up this process as a rank: what libraries read when they start, and its device, which is returned.

    ``index`` is the rank's number on its machine. Variables that the user has set are kept.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if deterministic:
        _repeat_results()
    if kind == "cuda" and not any(name in os.environ for name in _ALLOCATOR_NAMES):
        # torch has read the variables when it was imported
        torch._C._accelerator_setAllocatorSettings(_EXPANDABLE)
    device = torch.device(kind, index) if kind == "cuda" else torch.device(kind)
    take_device(device)
    return device


def _repeat_results() -> None:
    """Let this process compute the same bits again for the same inputs, on the same kind and number of devices."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # matrix products with a buffer of fixed size
    torch.use_deterministic_algorithms(True)  # flash attention's backward and the compiler heed it too
    torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN's attention adds in any order
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # ours reads none


def _init_group(store: Any, rank: int, ranks: int, *, device: torch.device, message_seconds: float) -> None:
    """Set up the process group. Return when all ranks have exchanged a first message.

    So no rank begins to work before all ranks can.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store.set_timeout(_JOIN_TIMEOUT)
    timeout = timedelta(seconds=message_seconds)
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout)
    dist.all_reduce(torch.zeros(1))


def _run_in_place(function: Callable[..., Any], ranks: int, *args: Any, setup: RankSetup) -> list[Any]:
    """Join torchrun's process group, unless this is done already, and call ``function(*args)`` on this rank.

    If ``ranks`` is 1, only the first rank calls the function, and the others wait for its result.
    """
    found = int(os.environ["WORLD_SIZE"])
    if found != ranks and ranks > 1:
        instead = "" if found % setup.group else f", or set parallel.ranks={found}"
        raise UserError(
            f"the recipe needs {format_count(ranks, 'rank')}, but torchrun started {found}",
            where="parallel.ranks",
            why="WORLD_SIZE is the number of processes of torchrun (nodes x processes per node)",
            fix=f"start {format_count(ranks, 'process')}{instead}",
        )
    if not dist.is_initialized():
        _join_torchrun(setup)
    if ranks < found:
        return [_run_on_first(function, *args)]
    both: list[Any] = [None] * ranks
    dist.all_gather_object(both, (function(*args), is_asked()))
    if any(asked for _, asked in both):  # a signal reaches the ranks at different moments
        raise Stopped
    return [result for result, _ in both]


def _join_torchrun(setup: RankSetup) -> None:
    rank, ranks, store = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), open_torchrun_store()
    kind = _agree(store, rank, ranks, _choose_kind(setup, count_started_here(), speaks=is_first()))
    device = _set_up_rank(kind, int(os.environ["LOCAL_RANK"]), setup.deterministic)
    _init_group(store, rank, ranks, device=device, message_seconds=setup.message_seconds)
    take_place(open_torchrun_store, say)


def _agree(store: Any, rank: int, ranks: int, kind: Kind) -> Kind:
    """Return the kind of device of all ranks: the CPU where one machine has too few GPUs."""
    store.set_timeout(_JOIN_TIMEOUT)
    store.set(f"kind/{rank}", kind)
    kinds = [store.get(f"kind/{each}").decode() for each in range(ranks)]
    return "cpu" if "cpu" in kinds else kind


def leave_ranks() -> None:
    """Leave torchrun's process group, all ranks at once. A rank that leaves early breaks gloo for the others."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _run_on_first(function: Callable[..., Any], *args: Any) -> Any:
    outcome: list[tuple[Any, UserError | None] | None] = [None]

    def call() -> None:
        try:
            outcome[0] = (function(*args), None)
        except UserError as error:
            outcome[0] = (None, error)

    first_does(call)
    dist.broadcast_object_list(outcome, src=0)
    assert outcome[0] is not None
    result, fault = outcome[0]
    if fault is not None:
        raise fault
    return result
