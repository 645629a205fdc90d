"""The search for the fastest layout of ranks and way to save memory, and for the ones that nothing else beats.

Branch and bound: no setting of a layout is faster than the layout without recomputation, copies and messages for
attention, so a layout whose bound is no better than what was found is left out, whole. The bounds are true ones: every
saving only adds time. So the result is that of trying everything, which a test does.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ropewalk.core.quantity import OPEN
from ropewalk.plan.fit import list_memory, time_split
from ropewalk.plan.memory import Memory
from ropewalk.plan.plan import Split
from ropewalk.plan.rank_layout import Layout, StageSpace
from ropewalk.plan.room import fits, measure_lack
from ropewalk.plan.savings import Savings

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a stage; ``seconds`` are those of the whole stage."""

    split: Split
    savings: Savings
    memory: Memory
    seconds: float


@dataclass(frozen=True, slots=True)
class LayoutPlan:
    """A layout with an option for each stage. ``dollars`` are 0 where no price is known."""

    layout: Layout
    options: tuple[Option, ...]
    seconds: float
    peak_bytes: float
    dollars: float

    def is_beaten_by(self, other: "LayoutPlan") -> bool:
        """Whether ``other`` is as good in time, memory and money; a candidate beats itself."""
        return other.seconds <= self.seconds and other.peak_bytes <= self.peak_bytes and other.dollars <= self.dollars


def find_fastest(stages: Sequence[StageSpace], layouts: Sequence[Layout]) -> LayoutPlan | None:
    """The fastest candidate that fits, or None."""
    best: LayoutPlan | None = None
    for bounds, layout in _sort_by_bound(stages, layouts):
        limit = _NEVER if best is None else best.seconds
        if sum(bounds) >= limit:
            break
        options: list[Option] = []
        for index, space in enumerate(stages):
            left = limit - sum(option.seconds for option in options) - sum(bounds[index + 1 :])
            option = _find_fastest_option(space, layout, left)
            if option is None:
                break
            options.append(option)
        else:
            best = _combine(stages, layout, options)
    return best


def find_front(stages: Sequence[StageSpace], layouts: Sequence[Layout]) -> list[LayoutPlan]:
    """All candidates that no other one beats in time, memory and money at once, the fastest first."""
    front: list[LayoutPlan] = []
    for bounds, layout in _sort_by_bound(stages, layouts):
        least = max(_least_peak(space, layout) for space in stages)
        seconds = sum(bounds)
        hope = LayoutPlan(layout, (), seconds, least, _price(stages[0], layout, seconds))
        if any(hope.is_beaten_by(other) for other in front):
            continue
        choices = [list(_list_options(space, layout, _NEVER)) for space in stages]
        for peak in sorted({option.memory.peak_bytes for options in choices for option in options}):
            within = [[each for each in options if each.memory.peak_bytes <= peak] for options in choices]
            if all(within):
                quickest = [min(options, key=lambda option: option.seconds) for options in within]
                found = _combine(stages, layout, quickest)
                if not any(found.is_beaten_by(other) for other in front):
                    front = [other for other in front if not other.is_beaten_by(found)] + [found]
    return sorted(front, key=lambda candidate: candidate.seconds)


def find_least_lack(stages: Sequence[StageSpace], layouts: Sequence[Layout]) -> Layout | None:
    """The layout that comes nearest to fitting; None where none can be made."""
    lacks: list[tuple[float, int, Layout]] = []
    for layout in layouts:
        found = [_least_lack(space, layout) for space in stages]
        if max(found) < _NEVER:
            lacks.append((max(found), -layout.context_ranks, layout))
    return min(lacks)[2] if lacks else None


def _sort_by_bound(stages: Sequence[StageSpace], layouts: Sequence[Layout]) -> list[tuple[list[float], Layout]]:
    found = [([_bound(space, layout) for space in stages], layout) for layout in layouts]
    return sorted((each for each in found if sum(each[0]) < _NEVER), key=lambda each: (sum(each[0]), each[1]))


def _bound(space: StageSpace, layout: Layout) -> float:
    """Seconds of a stage that no setting of this layout falls below."""
    sizes = space.list_micro_batches(layout)
    if not sizes:
        return _NEVER
    split = replace(space.split(layout), micro_batch_size=sizes[-1], needed_share=0.0)
    return space.steps * _time(space, layout, split, Savings())


def _time(space: StageSpace, layout: Layout, split: Split, way: Savings) -> float:
    machine = space.machine_of(layout.ranks)
    return time_split(space.load, way, ranks=layout.ranks, split=split, machine=machine).total


def _find_fastest_option(space: StageSpace, layout: Layout, limit: float) -> Option | None:
    best: Option | None = None
    for option in _list_options(space, layout, limit):
        if option.seconds < limit:
            best, limit = option, option.seconds
    return best


def _list_options(space: StageSpace, layout: Layout, limit: float) -> Iterator[Option]:
    """The options that fit. Cuts that cannot come below ``limit`` seconds are left out."""
    machine, whole = space.machine_of(layout.ranks), space.split(layout)
    for size in reversed(space.list_micro_batches(layout)):
        full = replace(whole, micro_batch_size=size)
        sized = replace(full, savings=_list_quick(space, layout, full, limit))
        if not sized.savings:
            continue
        uncut = _list_ways(space, layout, sized)  # a cut only adds, so where none fits, no cut does either
        if not any(fits(memory, machine) for _, memory in uncut):
            continue
        for cut in space.list_cuts(layout, full):  # as a run chooses, with ways that are too slow here
            split = cut.apply(sized)
            if space.steps * _time(space, layout, split, Savings()) >= limit:
                continue
            adds = split.received_tokens or split.ulysses_degree > 1
            for way, memory in _list_ways(space, layout, split) if adds else uncut:
                if fits(memory, machine):
                    yield Option(split, way, memory, space.steps * _time(space, layout, split, way))


def _list_ways(space: StageSpace, layout: Layout, split: Split) -> list[tuple[Savings, Memory]]:
    return list_memory(space.load, ranks=layout.ranks, split=split, machine=space.machine_of(layout.ranks))


def _list_quick(space: StageSpace, layout: Layout, split: Split, limit: float) -> tuple[Savings, ...]:
    """The ways of ``split`` that may come below ``limit`` seconds.

    Asked without messages, tiles and copies of activations, and with one block where their number is open.
    """
    if limit == _NEVER:
        return split.savings
    free = replace(split, needed_share=0.0)

    @functools.cache
    def is_quick(bare: Savings) -> bool:
        return space.steps * _time(space, layout, free, bare) < limit

    def strip(way: Savings) -> Savings:
        blocks = 1 if way.recompute_blocks == OPEN else way.recompute_blocks
        return Savings(way.recompute, states_on_host=way.states_on_host, recompute_blocks=blocks)

    return tuple(way for way in split.savings if is_quick(strip(way))) if is_quick(Savings()) else ()


def _least_peak(space: StageSpace, layout: Layout) -> float:
    """The least peak of a rank, in bytes, whether it fits or not."""
    return min((memory.peak_bytes for memory in _list_leanest(space, layout)), default=_NEVER)


def _least_lack(space: StageSpace, layout: Layout) -> float:
    machine = space.machine_of(layout.ranks)
    return min((measure_lack(memory, machine) for memory in _list_leanest(space, layout)), default=_NEVER)


def _list_leanest(space: StageSpace, layout: Layout) -> Iterator[Memory]:
    """The memory of all ways, with the smallest micro-batch and without what a cut adds."""
    for size in space.list_micro_batches(layout)[:1]:
        split = replace(space.split(layout), micro_batch_size=size)
        yield from (memory for _, memory in _list_ways(space, layout, split))


def _combine(stages: Sequence[StageSpace], layout: Layout, options: Sequence[Option]) -> LayoutPlan:
    seconds = sum(option.seconds for option in options)
    peak = max(option.memory.peak_bytes for option in options)
    return LayoutPlan(layout, tuple(options), seconds, peak, _price(stages[0], layout, seconds))


def _price(space: StageSpace, layout: Layout, seconds: float) -> float:
    return layout.ranks * seconds / 3600 * (space.machine_of(layout.ranks).dollars_per_hour or 0.0)
