"""The layouts of ranks that a recipe leaves open: context ranks, replicas, and of a stage the cut and the micro-batch.

Ranks, context ranks and replicas hold for a whole run. Each stage then has its own cut of a sequence over its context
ranks, its own micro-batch, and its own way to save memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ropewalk.core.quantity import OPEN
from ropewalk.partition.choose import list_degrees
from ropewalk.plan.choose_cut import choose_cut
from ropewalk.plan.fit import describe_stage_workload, split_stage
from ropewalk.plan.forecast import most_tokens
from ropewalk.plan.hardware import Machine
from ropewalk.plan.plan import Split
from ropewalk.plan.planned_machine import device_kind
from ropewalk.plan.savings import list_savings
from ropewalk.plan.sharing import Cut, plan_sharing
from ropewalk.plan.workload import Workload
from ropewalk.recipe.parallel import Parallel
from ropewalk.recipe.stage import Stage
from ropewalk.shape.model_shape import ModelShape

_MOST_SEQUENCES = 64
"""The largest micro-batch that is tried: a longer sequence fills a device sooner."""


class Layout(NamedTuple):
    """What holds for all stages."""

    ranks: int
    context_ranks: int
    replicas: int

    def apply(self, parallel: Parallel) -> Parallel:
        """``parallel`` with this layout."""
        return parallel.model_copy(
            update={"ranks": self.ranks, "context_parallel": self.context_ranks, "replicas": self.replicas}
        )


@dataclass(frozen=True, slots=True)
class StageSpace:
    """One stage, and what is open about it.

    ``machine_of`` gives a rank's device by the number of ranks, which share a node's memory.
    """

    parallel: Parallel
    stage: Stage
    load: Workload
    steps: int
    machine_of: Callable[[int], Machine]
    all_degrees: bool
    """Whether each Ulysses degree is tried, or only the one that a run chooses for such sequences."""
    changes_rounding: bool

    def split(self, layout: Layout) -> Split:
        """The split of a layout, not yet cut, with all ways to save memory."""
        parallel, machine = layout.apply(self.parallel), self.machine_of(layout.ranks)
        split = split_stage(parallel, self.stage, self.load.shape, machine=machine)
        if not self.changes_rounding:
            return split
        apart = device_kind(machine) == "cuda"
        ways = list_savings(parallel, self.load.shape, host_is_apart=apart, changes_rounding=True)
        return replace(split, savings=tuple(ways))

    def list_micro_batches(self, layout: Layout) -> list[int]:
        """The sizes that are possible, the smallest first; none if data ranks would have no work."""
        if self.load.sequences < layout.ranks // layout.context_ranks:
            return []
        if layout.context_ranks > 1 and any(rule.bias for rule in self.stage.layers):
            return []
        own = self.load.count_busiest(layout.ranks, layout.context_ranks)
        sizes = [min(self.stage.micro_batch_size, own)]
        if self.stage.micro_batch_size == OPEN:
            sizes = [1 << power for power in range(min(_MOST_SEQUENCES, own).bit_length())]
        return [size for size in sizes if size * self.load.context_tokens % layout.context_ranks == 0]

    def list_cuts(self, layout: Layout, split: Split) -> Iterator[Cut]:
        """The cuts of a micro-batch over the context ranks; ``split`` has all ways to save memory."""
        machine = self.machine_of(layout.ranks)
        kind = device_kind(machine)
        sharing = plan_sharing(self.parallel, self.load.shape, device=kind, element_bytes=split.element_bytes)
        degrees: Sequence[int | None] = list_degrees(layout.context_ranks, sharing)
        if not self.all_degrees and degrees:
            degrees = [sharing.ulysses_degree]
        for degree in degrees:
            limited = replace(sharing, ulysses_degree=degree)
            yield choose_cut(self.load, split, limited, ranks=layout.ranks, machine=machine)


def open_stage_space(
    parallel: Parallel,
    stage: Stage,
    extended: ModelShape,
    *,
    machine_of: Callable[[int], Machine],
    all_degrees: bool = False,
    changes_rounding: bool = False,
) -> StageSpace:
    """What ``parallel`` and ``stage`` leave open; ``extended`` is the shape of the stage's model."""
    load = describe_stage_workload(stage, extended)
    steps = max(1, most_tokens(stage) // load.step_tokens)
    return StageSpace(parallel, stage, load, steps, machine_of, all_degrees, changes_rounding)


def list_layouts(parallel: Parallel, rank_counts: Sequence[int]) -> list[Layout]:
    """All layouts that ``parallel`` leaves open; ``rank_counts`` are those to try where ``ranks`` is open."""
    counts = rank_counts if parallel.ranks == OPEN else [parallel.ranks]
    return [
        Layout(ranks, context_ranks, replicas)
        for ranks in counts
        for context_ranks in _list_divisors(ranks, parallel.context_parallel)
        for replicas in _list_divisors(ranks, parallel.replicas)
    ]


def _list_divisors(ranks: int, asked: int) -> list[int]:
    tried = range(1, ranks + 1) if asked == OPEN else [asked]
    return [count for count in tried if ranks % count == 0]
