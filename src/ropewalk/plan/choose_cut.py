"""How a stage's sequences are cut over context ranks: the cheapest way, or the fastest that memory has room for.

The keys that a rank receives can be most of what it holds. So where they do not fit beside the rest, or force a way to
save memory that costs more than another exchange, less room is given to them: a batch then goes in a ring, or heads are
cut. The room is one number, and the choice for a batch under it one function (partition/choose.py). So a plan, the
check of a recipe and all ranks of a run choose the same. On a CPU, and where a recipe names the exchange, room is not
asked for.
"""

import math
from dataclasses import dataclass, replace

from ropewalk.partition.choose import Sharing
from ropewalk.plan.fit import (
    describe_stage_workload,
    estimate_split_memory,
    find_fit,
    list_memory,
    split_stage,
    time_split,
)
from ropewalk.plan.hardware import Machine
from ropewalk.plan.memory import Memory
from ropewalk.plan.plan import Split
from ropewalk.plan.planned_machine import assume_gpu, device_kind
from ropewalk.plan.room import describe_room, fits, rank_lack
from ropewalk.plan.savings import Savings
from ropewalk.plan.sharing import Cut, cut_sequences, plan_sharing
from ropewalk.plan.workload import Workload
from ropewalk.recipe.parallel import Parallel
from ropewalk.recipe.stage import Stage
from ropewalk.shape.model_shape import ModelShape

_CLEARLY = 0.98
"""A cut that holds fewer keys is taken where the step is shorter by this factor: a tie goes to the cheapest cut."""


def cut_stage(parallel: Parallel, stage: Stage, extended: ModelShape, *, machine: Machine) -> Split:
    """``split_stage``, with the cut that a run makes of sequences of one document each.

    Raises UserError where the ranks, or the heads, make no groups of the Ulysses degree that the recipe asks for.
    """
    split = split_stage(parallel, stage, extended, machine=machine)
    if stage.context_length * split.micro_batch_size % split.context_ranks:  # recipe/check reports it
        return split
    sharing = plan_sharing(parallel, extended, device=device_kind(machine), element_bytes=split.element_bytes)
    load = describe_stage_workload(stage, extended)
    return choose_cut(load, split, sharing, ranks=parallel.ranks, machine=machine).apply(split)


def fits_somehow(parallel: Parallel, stage: Stage, extended: ModelShape, *, machine: Machine) -> bool:
    """Whether a stage fits with any way to save memory, and any exchange, that the recipe leaves open."""
    machine = assume_gpu(parallel, extended, machine)
    load = describe_stage_workload(stage, extended)

    def fits_so(split: Split) -> bool:
        found = list_memory(load, ranks=parallel.ranks, split=split, machine=machine)
        return any(fits(memory, machine) for _, memory in found)

    # A cut only adds what is received, and over thousands of ranks it takes seconds to find.
    if not fits_so(split_stage(parallel, stage, extended, machine=machine)):
        return False
    return parallel.context_parallel == 1 or fits_so(cut_stage(parallel, stage, extended, machine=machine))


@dataclass(frozen=True, slots=True)
class _Tried:
    """A cut, with the fastest way to save memory that fits beside it, or the one that lacks least."""

    cut: Cut
    savings: Savings
    memory: Memory
    fits: bool
    seconds: float


def choose_cut(load: Workload, split: Split, sharing: Sharing, *, ranks: int, machine: Machine) -> Cut:
    """The cut of sequences of one document each over the context ranks of ``split``, for ranks of ``machine``.

    It is the cheapest one, unless the step is clearly shorter with one that holds fewer keys, or only that fits. Then
    ``held_tokens`` is the room that all batches of the stage have for keys of other ranks.
    """

    def cut(room: float | None) -> Cut:
        limited = replace(sharing, held_tokens=room)
        return cut_sequences(load.context_tokens, split.micro_batch_size, ranks=split.context_ranks, sharing=limited)

    free = cut(None)
    if sharing.exchange != "auto" or machine.name == "cpu" or not free.received_tokens:
        return free
    tried = [_try_cut(load, split, free, ranks=ranks, machine=machine)]
    bare = replace(free.apply(split), received_tokens=0.0)
    best_savings, _ = find_fit(load, ranks=ranks, split=bare, machine=machine)
    while not (tried[-1].fits and tried[-1].savings == best_savings):  # else fewer keys make no room for more
        room = math.nextafter(tried[-1].cut.received_tokens, 0.0)
        less = cut(room)
        if less.received_tokens > room:
            break
        tried.append(_try_cut(load, split, less, ranks=ranks, machine=machine))
        if not less.received_tokens:
            break
    first, best = tried[0], _find_best(tried, machine)
    if best is first:
        return free
    before = tried[tried.index(best) - 1].cut.received_tokens
    room = _measure_room(load, split, best, below=before, ranks=ranks, machine=machine)
    return replace(best.cut, held_tokens=room, why=f"{best.cut.why}; {_explain(first, best, machine)}")


def _try_cut(load: Workload, split: Split, cut: Cut, *, ranks: int, machine: Machine) -> _Tried:
    whole = cut.apply(split)
    savings, memory = find_fit(load, ranks=ranks, split=whole, machine=machine)
    times = time_split(load, savings, ranks=ranks, split=whole, machine=machine)
    return _Tried(cut, savings, memory, fits(memory, machine), times.total)


def _find_best(tried: list[_Tried], machine: Machine) -> _Tried:
    """The fastest that fits, the first one if it is nearly as fast; where none fits, the one that lacks least."""
    fitting = [each for each in tried if each.fits]
    if not fitting:
        return min(tried, key=lambda each: rank_lack(each.memory, machine))
    best = min(fitting, key=lambda each: each.seconds)
    return tried[0] if tried[0].fits and best.seconds > _CLEARLY * tried[0].seconds else best


def _measure_room(load: Workload, split: Split, best: _Tried, *, below: float, ranks: int, machine: Machine) -> float:
    """The most tokens whose keys fit beside the rest, by halving; less than ``below``, which another cut holds.

    Each takes as much as in a ring, where it takes most. Where nothing fits, it is a ring's block, so that batches of
    short documents are still cut as is cheapest.
    """
    least, most = best.cut.received_tokens, math.nextafter(below, 0.0)
    if not best.fits:
        return max(least, min(most, load.context_tokens * split.micro_batch_size / split.context_ranks))
    whole = best.cut.apply(split)
    while most - least > 1:
        middle = (least + most) // 2
        memory = estimate_split_memory(
            load, best.savings, ranks=ranks, split=replace(whole, received_tokens=middle, exchange="ring")
        )
        least, most = (middle, most) if fits(memory, machine) else (least, middle)
    return least


def _explain(first: _Tried, best: _Tried, machine: Machine) -> str:
    """Why ``best`` is not the cheapest cut, in words."""
    name = first.cut.why.partition(";")[0].partition(":")[0]
    if first.fits:
        ratio = first.seconds / best.seconds
        return f"{name} would take {ratio:.2f} times as long, with {first.savings.describe()}"
    return f"{name} does not fit: {describe_room(first.memory, machine).partition(': ')[2]}"
