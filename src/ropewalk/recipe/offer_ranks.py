"""Numbers of ranks that a recipe accepts, for errors and warnings that offer another one.

An offer must be accepted when it is typed: it is a multiple of the context ranks, of the replicas and of the machines,
and every data rank has a sequence in each step.
"""

import math

from ropewalk.recipe.parallel import Parallel
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage


def group_ranks(parallel: Parallel) -> int:
    """The number whose multiples the ranks must be; a count that is open asks for nothing."""
    return math.lcm(parallel.context_parallel or 1, parallel.replicas or 1)


def count_sequences(stage: Stage) -> int:
    """The sequences that a step of ``stage`` deals out to data ranks; 0 where a step is asked for less than one."""
    return stage.step_sequences if stage.step_tokens >= stage.context_length else 0


def count_own(parallel: Parallel, stage: Stage) -> int:
    """The sequences of a step that the busiest data rank takes; no micro-batch has more. No count may be open."""
    return math.ceil(stage.step_sequences / max(1, parallel.ranks // parallel.context_parallel))


def offer_ranks(recipe: Recipe, near: int, *, nodes: int = 1, most: int | None = None) -> int | None:
    """The number of ranks nearest to ``near`` that ``recipe`` accepts on ``nodes`` machines, the lower of two equals.

    None where there is none up to ``most``.
    """
    group = math.lcm(group_ranks(recipe.parallel), nodes)
    busy = min(map(count_sequences, recipe.stages), default=near)
    largest = busy * (recipe.parallel.context_parallel or 1)
    if most is not None:
        largest = min(largest, most)
    fitting = range(group, largest + 1, group)
    if not fitting:
        return None
    below = min(max(near // group, 1), len(fitting))
    return min(fitting[below - 1 : below + 1], key=lambda ranks: abs(ranks - near))
