"""Ranks start warm, speak in order, and fall together: failures, kills, hangs, Ctrl-C, torchrun."""

import os
import re
import signal
import subprocess
import textwrap
import time
from contextvars import ContextVar
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from forked_verb import be_program
from ropewalk.core.error import UserError
from ropewalk.parallel import launch
from ropewalk.parallel.forked import RankStart
from ropewalk.parallel.launch import RankError, run_ranks


def sum_of_ranks(offset: int) -> tuple[int, torch.Tensor]:
    total = torch.tensor([float(dist.get_rank() + offset)])
    dist.all_reduce(total)
    return dist.get_rank(), total


def test_results_come_back_in_order() -> None:
    results = run_ranks(sum_of_ranks, 2, 10)
    assert [rank for rank, _ in results] == [0, 1]
    assert all(total.item() == 21 for _, total in results)


NO_NETWORK = """
    import ctypes, os
    from ropewalk.parallel.launch import run_ranks

    new_user, new_network = 0x10000000, 0x40000000  # of sched.h
    if ctypes.CDLL(None, use_errno=True).unshare(new_user | new_network):
        raise OSError(ctypes.get_errno(), "unshare")
    run_ranks(int, 1)
"""


def start_parent(code: str, arguments: list[str], log: Path) -> BaseProcess:
    """A program that starts ranks, forked, so that it imports nothing again; what it says is in ``log``."""
    program = ["-c", textwrap.dedent(code), *arguments]
    settings = {"in_thread": False}
    process = get_context("fork").Process(target=be_program, args=(program, log, log, []), kwargs=settings)
    process.start()
    return process


def test_ranks_without_a_loopback_interface_are_told_so(tmp_path: Path) -> None:
    """As in a container without a network: no retry helps, and a traceback of gloo says nothing to a user."""
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no namespaces for its users")
    log = tmp_path / "said"
    parent = start_parent(NO_NETWORK, [], log)
    parent.join()
    said = log.read_text()
    assert "ip link set lo up" in said and "started again" not in said, said


def test_one_rank_and_a_closure() -> None:
    found = []
    assert run_ranks(lambda: found.append(1) or dist.get_world_size(), 1) == [1]
    assert found == [], "a rank is a process of its own"


NAMED: ContextVar[str] = ContextVar("named", default="nothing")


def test_what_is_named_around_the_start_is_named_in_the_ranks() -> None:
    """As ``use_kernel`` and ``use_recurrent_kernels`` do: a rank's own thread would begin with an empty context."""
    token = NAMED.set("a kernel")
    try:
        assert run_ranks(NAMED.get, 2) == ["a kernel", "a kernel"]
    finally:
        NAMED.reset(token)


def test_a_rank_that_is_done_early_leaves_no_one_behind() -> None:
    """It must not close its connections while a slower rank is still opening its own, or reading from them."""
    for _ in range(5):
        assert run_ranks(dist.get_rank, 3) == [0, 1, 2]


def test_what_a_rank_prints_last_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    run_ranks(lambda: print(f"rank {dist.get_rank()} is done"), 2)
    said = capfd.readouterr().out  # two processes write at once, so a line may end behind the other's
    assert sorted(re.findall(r"rank \d is done", said)) == ["rank 0 is done", "rank 1 is done"]


def test_a_large_result_passes() -> None:
    results = run_ranks(lambda: torch.full((1 << 20,), float(dist.get_rank())), 2)
    assert [result.sum().item() for result in results] == [0, 1 << 20]


def test_threads_work_after_the_parent_has_computed_with_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.relu(torch.randn(1000, 1000)).sum()

        def compute() -> int:
            torch.relu(torch.randn(1000, 1000)).sum()
            return torch.get_num_threads()

        assert run_ranks(compute, 1, threads=2) == [2]
    finally:
        torch.set_num_threads(before)


def fail(how: str) -> None:
    if dist.get_rank() == 1:
        if how == "user":
            raise UserError("no such text", where="corpus", why="it is empty", fix="give one")
        if how == "raise":
            raise ValueError("seven")
        if how == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
    time.sleep(60)


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("user", UserError, "no such text"),
        ("raise", RankError, r"rank 1 of 2 failed:[\s\S]*ValueError: seven"),
        ("exit", RankError, "rank 1 of 2 failed: it ended with exit code 3"),
        ("kill", RankError, "rank 1 of 2 failed: it was ended by SIGKILL; the operating system does this when memory"),
    ],
)
def test_one_failure_ends_all_within_seconds(how: str, kind: type[Exception], words: str) -> None:
    begun = time.monotonic()
    with pytest.raises(kind, match=words):
        run_ranks(fail, 2, how)
    assert time.monotonic() - begun < 40, "the other rank sleeps for 60; 0.4 s on an idle machine"


def test_a_parent_whose_autograd_has_threads_is_told_and_not_shown_as_a_trace() -> None:
    """In torch's words; a machine with a device would be needed for the fault itself."""

    def fail_as_torch_does() -> None:
        words = "Unable to handle autograd's threading in combination with fork-based multiprocessing."
        raise RuntimeError(f"{words} See https://github.com/pytorch/pytorch/wiki/Autograd-and-Fork")

    with pytest.raises(UserError, match="forked ranks cannot compute gradients") as caught:
        run_ranks(fail_as_torch_does, 1)
    assert "use torchrun" in caught.value.fix


def test_a_backward_of_this_process_spoils_no_rank() -> None:
    """Also after tensors without values, for which a torch that is built for CUDA puts a device in place."""

    def differentiate() -> float:
        given = torch.ones(1, requires_grad=True)
        (3 * given).sum().backward()
        assert given.grad is not None
        return float(given.grad)

    with FakeTensorMode():
        torch.ones(1)
    assert differentiate() == 3 and run_ranks(differentiate, 1) == [3]


def test_a_rank_that_ignores_the_request_to_end_is_killed() -> None:
    def linger() -> None:
        if dist.get_rank() == 1:
            raise ValueError("over")
        time.sleep(60)

    begun = time.monotonic()
    with pytest.raises(RankError, match="over"):
        run_ranks(linger, 2)
    assert time.monotonic() - begun < 40


PARENT = """
    import os, sys, time
    from pathlib import Path
    from ropewalk.parallel.launch import run_ranks

    def tell():
        Path(sys.argv[1], str(os.getpid())).touch()
        time.sleep(100)

    run_ranks(tell, 2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_ranks_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    seen = tmp_path / "ranks"
    seen.mkdir()
    parent = start_parent(PARENT, [str(seen)], tmp_path / "said")
    deadline = time.monotonic() + 60
    while len(list(seen.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(path.name) for path in seen.iterdir()]
    assert len(pids) == 2 and parent.pid is not None
    os.kill(parent.pid, number)
    parent.join(timeout=60)
    assert parent.exitcode is not None
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_under_torchrun_the_call_is_made_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def be_torchrun() -> list[object]:
        os.environ.update(RANK=str(dist.get_rank()), WORLD_SIZE="2")
        return run_ranks(sum_of_ranks, 2, 1)

    both = run_ranks(be_torchrun, 2)
    assert [[rank for rank, _ in seen] for seen in both] == [[0, 1], [0, 1]]

    def do_once() -> list[object]:
        os.environ.update(RANK=str(dist.get_rank()), WORLD_SIZE="2")
        return run_ranks(dist.get_rank, 1)

    assert run_ranks(do_once, 2) == [[0], [0]]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="needs 2 ranks, but torchrun started 3"):
        run_ranks(sum_of_ranks, 2, 1)


def test_ranks_that_do_not_find_together_are_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once gloo's connections failed while a full mesh was built; the second time has a store of its own."""
    plain = launch._join_group

    def join(start: RankStart) -> None:
        tries = tmp_path / f"tried-{start.rank}"
        before = tries.read_text() if tries.exists() else ""
        tries.write_text(f"{before}{start.folder}\n")
        if start.rank == 1 and len(before.splitlines()) < failures:
            raise RuntimeError("connectFullMesh failed: Connection refused")
        plain(start)

    monkeypatch.setattr(launch, "_join_group", join)
    failures = 2
    assert run_ranks(dist.get_rank, 2) == [0, 1]
    stores = (tmp_path / "tried-1").read_text().splitlines()
    assert len(stores) == len(set(stores)) == 3
    failures = 10
    with pytest.raises(RankError, match="connectFullMesh"):
        run_ranks(dist.get_rank, 2)
