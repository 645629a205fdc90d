"""Work that one rank does alone: the helpers of messages act as if it were the only rank, since nobody would answer."""

import os

import pytest
import torch

from ropewalk.parallel.collective import gather_values, max_over_ranks, share_from_first, sum_over_ranks, wait_for_ranks
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.rank_zero import first_alone
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
