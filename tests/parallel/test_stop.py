"""SIGTERM: ranks that listen are asked, ranks that do not are ended, a process of its own keeps its own answer."""

import os
import signal
import time

import pytest
import torch.distributed as dist

from ropewalk.parallel.launch import RankError, run_ranks
from ropewalk.parallel.stop import listen_for_stop


def wait_for_stop(parent: int, listening: bool) -> bool:
    if not listening:
        if dist.get_rank() == 0:
            os.kill(parent, signal.SIGTERM)
        time.sleep(60)
    with listen_for_stop() as asked:
        dist.barrier()
        if dist.get_rank() == 0:
            os.kill(parent, signal.SIGTERM)
        deadline = time.monotonic() + 40
        while not asked() and time.monotonic() < deadline:
            time.sleep(0.01)
        return asked()


def test_listening_ranks_are_asked() -> None:
    assert run_ranks(wait_for_stop, 2, os.getpid(), True) == [True, True]


def test_other_ranks_are_ended() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RankError, match="SIGTERM"):
        run_ranks(wait_for_stop, 2, os.getpid(), False)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_main_thread_of_its_own() -> None:
    with listen_for_stop() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert asked()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
