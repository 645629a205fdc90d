"""Work that one rank does alone: the helpers of messages act as if it were the only rank, since nobody would answer."""

import os
from datetime import timedelta

import pytest
import torch

from ropewalk.core.error import RankError
from ropewalk.parallel import rank_zero
from ropewalk.parallel.collective import gather_values, max_over_ranks, share_from_first, sum_over_ranks, wait_for_ranks
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.rank_zero import agree_on_attempt, first_alone, first_does, open_torchrun_store
from ropewalk.parallel.torchrun import by_itself


def send_alone() -> tuple[list[list[int]], list[int]]:
    rank = torch.distributed.get_rank()
    os.environ["RANK"] = str(rank)  # as torchrun sets it
    seen: list[list[int]] = []

    def work() -> None:
        one = torch.ones(1, dtype=torch.float64)
        wait_for_ranks()
        sums = [int(sum_over_ranks(one)), int(max_over_ranks(one)), share_from_first(7)]
        seen.append([*gather_values(rank), *sums])

    first_alone(work)
    return seen, gather_values(rank)


def test_a_rank_alone_sends_nothing() -> None:
    first, second = run_ranks(send_alone, 2)
    assert first == ([[0, 1, 1, 7]], [0, 1]), "alone it sees itself only, and all ranks afterwards"
    assert second == ([], [0, 1])


def test_ranks_that_it_forks_send_to_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with by_itself():
        assert run_ranks(lambda: gather_values(torch.distributed.get_rank()), 2) == [[0, 1], [0, 1]]


def meet(port: int, counts: tuple[int, int]) -> list[str]:
    """As a rank of torchrun whose machine has counted ``counts[rank]`` restarts: what both wrote into the store."""
    rank = torch.distributed.get_rank()
    told = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    told |= {"TORCHELASTIC_RESTART_COUNT": counts[rank], "TORCHELASTIC_USE_AGENT_STORE": True}
    os.environ.update({name: str(value) for name, value in told.items()})
    store = open_torchrun_store()
    assert not store.check([f"here/{rank}"]), "an earlier start wrote this"
    store.set(f"here/{rank}", f"rank {rank}")
    store.set_timeout(timedelta(seconds=5))
    return [open_torchrun_store().get(f"here/{each}").decode() for each in range(2)]


def test_ranks_find_each_other_where_machines_have_counted_other_restarts() -> None:
    """A machine whose ranks were sound starts them again without counting it, and the store is that of before."""
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for counts in ((0, 0), (1, 0), (1, 0)):
        assert run_ranks(meet, 2, store.port, counts) == [["rank 0", "rank 1"]] * 2


def test_a_rank_that_never_begins_is_named() -> None:
    store = torch.distributed.HashStore()
    store.set("asks/2", "a word of an earlier start")
    with pytest.raises(RankError, match="not begun within 0 s: 1, 2"):
        agree_on_attempt(store, 0, 3, patience_seconds=0.05)


def turn_twice() -> list[str]:
    done: list[str] = []
    for word in ("one", "two"):
        first_does(lambda word=word: done.append(word))  # type: ignore[misc]
    return done


def test_forked_ranks_have_a_store_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent's store is a connection of the parent."""
    monkeypatch.setitem(rank_zero._stores, os.getpid(), None)
    assert run_ranks(turn_twice, 2) == [["one", "two"], []]
