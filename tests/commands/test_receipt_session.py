"""A run that went on by other means has the receipt of those that took most of its steps."""

from typing import Any

import pytest

from planned_recipe import make_planned
from ropewalk.commands.receipt_session import apply_session, choose_session


def session(from_step: int, ranks: int, **parallel: object) -> dict[str, Any]:
    return {
        "from_step": from_step,
        "rig": {"device": "H100", "kind": "cuda", "ranks": ranks, "context_ranks": 4, "peak_flops": 1e15 + from_step},
        "parallel": {"ranks": ranks, "replicas": 1, "precision": "bfloat16", **parallel},
        "means": {"micro_batch_size": 2},
        "savings": {"recompute": "full"},
    }


@pytest.mark.parametrize(
    ("last", "chosen", "counted"),
    [
        (20, 0, range(3, 11)),  # 8 steps on 8 ranks, 6 on 32
        (30, 2, range(15, 31)),
        (12, 0, range(3, 11)),
        (2, 3, range(0)),  # nothing counts: the latest
    ],
)
def test_the_means_of_most_steps_are_told(last: int, chosen: int, counted: range) -> None:
    """The second session died in its third step; the fourth one has begun and taken no step yet."""
    held = [session(0, 8), session(10, 32), session(12, 32, hang_seconds=99.0), session(last, 16)]
    found, steps = choose_session(held, range(1, last + 1))
    assert found is held[chosen] and steps == set(counted)


def test_steps_that_were_linked_from_another_cell_are_not_counted() -> None:
    assert choose_session([session(5, 8)], range(1, 9))[1] == {8}


def test_a_receipt_counts_with_the_means_of_its_session() -> None:
    recipe = make_planned(parallel={"ranks": 16, "context_parallel": 4, "replicas": 2})
    then = apply_session(recipe, 0, session(0, 8))
    assert (then.parallel.ranks, then.parallel.replicas, then.parallel.context_parallel) == (8, 1, 4)
    assert then.stages[0].micro_batch_size == 2 and recipe.stages[0].micro_batch_size == 1
