"""Small agreements: the same with ranks as the plain sum says, and without a group as if there were one rank."""

import torch

from ropewalk.parallel.collective import (
    gather_values,
    max_over_ranks,
    rank_and_ranks,
    share_from_first,
    sum_over_ranks,
    wait_for_ranks,
)
from ropewalk.parallel.launch import run_ranks


def everything() -> dict[str, object]:
    rank, ranks = rank_and_ranks()
    values = torch.tensor([2.0**53, rank], dtype=torch.float64)
    wait_for_ranks()
    return {
        "rank": (rank, ranks),
        "sum": sum_over_ranks(values).tolist(),
        "max": max_over_ranks(values).tolist(),
        "kept": values.tolist(),
        "gathered": gather_values({"rank": rank}),
        "first": share_from_first(f"rank {rank} says"),
    }


def test_two_ranks() -> None:
    for rank, found in enumerate(run_ranks(everything, 2)):
        assert found == {
            "rank": (rank, 2),
            "sum": [2.0**54, 1.0],
            "max": [2.0**53, 1.0],
            "kept": [2.0**53, float(rank)],
            "gathered": [{"rank": 0}, {"rank": 1}],
            "first": "rank 0 says",
        }


def test_no_group_is_one_rank() -> None:
    assert everything() == {
        "rank": (0, 1),
        "sum": [2.0**53, 0.0],
        "max": [2.0**53, 0.0],
        "kept": [2.0**53, 0.0],
        "gathered": [{"rank": 0}],
        "first": "rank 0 says",
    }
