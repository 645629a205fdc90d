"""Decides the counts that a recipe leaves open (``auto``): ranks, context ranks, replicas, micro-batches.

The choice is the fastest of all stages together that fits (search.py), for the hardware that the recipe names, or for
this machine. Ulysses degree and memory savings stay open in the recipe, because a run chooses them for each batch and
for its own memory; the search counts with what it will choose.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ropewalk.core.quantity import OPEN
from ropewalk.plan.fit import steady_machine
from ropewalk.plan.gpus import list_gpus
from ropewalk.plan.hardware import Machine
from ropewalk.plan.planned_machine import choose_machine, count_devices
from ropewalk.plan.rank_layout import Layout, StageSpace, list_layouts, open_stage_space
from ropewalk.plan.search import LayoutPlan, find_fastest, find_least_lack
from ropewalk.recipe.parallel import Parallel
from ropewalk.recipe.spec import Init, Recipe
from ropewalk.recipe.stretch import stretch_stages
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape

_SMALL_VOCABULARY = 1 << 16
_TOLD_VALUES = 4


@dataclass(frozen=True, slots=True)
class Settled:
    """A recipe without open counts, and a line for each of them that says what was chosen, and why."""

    recipe: Recipe
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecipeSpace:
    """What a recipe leaves open: all stages, and the layouts of ranks."""

    stages: tuple[StageSpace, ...]
    layouts: tuple[Layout, ...]


def settle_recipe(
    recipe: Recipe, shape: ModelShape, *, started: int | None = None, machine: Machine | None = None
) -> Settled:
    """Decide what ``recipe`` leaves open. ``shape`` is the base's; ``started`` are ranks that exist already.

    ``machine`` None means what the recipe names, or this machine.

    Where nothing fits, the layout that lacks least is taken; where nothing is possible at all, 1 in all places. The
    checks of the recipe report both. Raises UserError for hardware that the table does not have.
    """
    if not recipe.open_keys:
        return Settled(recipe, ())
    space = open_recipe_space(recipe, shape, started=started, machine=machine)
    best = find_fastest(space.stages, space.layouts) if space.stages else None
    if best is None:
        layout = find_least_lack(space.stages, space.layouts) if space.stages else None
        layout = layout or _fill_in(recipe.parallel, max(_list_rank_counts(recipe, started)))
        settled = apply_layout(recipe, layout, [1] * len(recipe.stages))
        return Settled(settled, tuple(f"{line}: nothing fits" for line in _tell(recipe, settled)))
    settled = apply_layout(recipe, best.layout, [option.split.micro_batch_size for option in best.options])
    lines = [
        _compare(line, key, best, space) for key, line in zip(recipe.open_keys, _tell(recipe, settled), strict=True)
    ]
    return Settled(settled, tuple(lines))


def open_recipe_space(
    recipe: Recipe,
    shape: ModelShape,
    *,
    started: int | None = None,
    all_degrees: bool = False,
    changes_rounding: bool = False,
    measured: bool = False,
    machine: Machine | None = None,
) -> RecipeSpace:
    """The space that the keys of ``recipe`` leave open; without stages where positions do not fit.

    With ``measured`` a CPU has its own rates, as in plans that are printed, and not the usual ones of choices.
    """
    counts = _list_rank_counts(recipe, started)
    most = max(counts) if recipe.parallel.ranks == OPEN else recipe.parallel.ranks
    if machine is None:
        machine = choose_machine(recipe.model_copy(update={"parallel": _with_ranks(recipe.parallel, most)}), shape)
    stages = [
        open_stage_space(
            _with_ranks(recipe.parallel, most),
            stage,
            extended,
            machine_of=_share_host(machine if measured else steady_machine(machine), most),
            all_degrees=all_degrees,
            changes_rounding=changes_rounding,
        )
        for stage, extended in zip(recipe.stages, stretch_stages(recipe, shape), strict=False)
    ]
    return RecipeSpace(tuple(stages), tuple(list_layouts(recipe.parallel, counts)))


def apply_layout(recipe: Recipe, layout: Layout, micro_batches: Sequence[int]) -> Recipe:
    """``recipe`` with a layout, and the micro-batches of stages that leave theirs open."""
    sizes = [*micro_batches, *[1] * len(recipe.stages)]
    stages = tuple(
        stage if stage.micro_batch_size != OPEN else stage.model_copy(update={"micro_batch_size": size})
        for stage, size in zip(recipe.stages, sizes, strict=False)
    )
    return recipe.model_copy(update={"parallel": layout.apply(recipe.parallel), "stages": stages})


def shape_of_init(init: Init) -> ModelShape:
    """The shape of a model that starts from nothing; the vocabulary is a guess where its tokenizer is a folder."""
    return ModelShape(
        architecture=init.architecture,
        width=init.width,
        heads=init.heads,
        kv_heads=init.kv_heads,
        head_dim=init.head_dim,
        mlp_width=init.mlp_width,
        vocabulary=init.tokenizer if isinstance(init.tokenizer, int) else _SMALL_VOCABULARY,
        tied=init.tied,
        context_tokens=init.context_length,
        positions=plain_layers(init.layers, init.theta),
    )


def _fill_in(parallel: Parallel, ranks: int) -> Layout:
    """The recipe's layout; a count that it leaves open is 1."""
    return Layout(parallel.ranks or ranks, parallel.context_parallel or 1, parallel.replicas or 1)


def _with_ranks(parallel: Parallel, ranks: int) -> Parallel:
    return parallel.model_copy(update={"ranks": ranks})


def _list_rank_counts(recipe: Recipe, started: int | None) -> list[int]:
    """The numbers of ranks to try where they are open: parts of one node, then whole nodes."""
    if started is not None:
        return [started]
    if recipe.hardware is None:
        return [max(1, len(list_gpus()))] if recipe.parallel.device != "cpu" else [1]
    devices, each = count_devices(recipe)
    inside = [count for count in range(1, min(devices, each) + 1) if each % count == 0]
    return inside + [each * nodes for nodes in range(2, devices // each + 1)]


def _share_host(machine: Machine, ranks: int) -> Callable[[int], Machine]:
    """The machine of a rank, by the number of ranks; ``machine`` is that of ``ranks``, which share a node's memory."""
    each = machine.node_ranks or ranks

    def machine_of(count: int) -> Machine:
        return replace(machine, host_bytes=machine.host_bytes * min(ranks, each) / min(count, each))

    return machine_of


def _tell(recipe: Recipe, settled: Recipe) -> Iterator[str]:
    for key in recipe.open_keys:
        yield f"{key}: auto is {find_count(settled, key)}"


def find_count(recipe: Recipe, key: str) -> int:
    """The value of one of the counts that may be open, by its key as it is overridden."""
    room, *place, name = key.split(".")
    spec = recipe.stages[int(place[0])] if place else recipe.parallel
    assert room in ("parallel", "stages")
    return int(getattr(spec, name))


def _compare(line: str, key: str, best: LayoutPlan, space: RecipeSpace) -> str:
    """``line`` with the times of the other values of ``key``, everything else as open as before."""
    names = {"parallel.ranks": "ranks", "parallel.context_parallel": "context_ranks", "parallel.replicas": "replicas"}
    if key not in names:
        return line
    chosen = getattr(best.layout, names[key])
    values = {getattr(layout, names[key]) for layout in space.layouts} - {chosen}
    told = [line]
    for value in sorted(sorted(values, key=lambda value: (abs(value - chosen), value))[:_TOLD_VALUES]):
        layouts = [layout for layout in space.layouts if getattr(layout, names[key]) == value]
        other = find_fastest(space.stages, layouts)
        told.append(_describe_other(value, other, best))
    return "; ".join(told)


def _describe_other(value: int, other: LayoutPlan | None, best: LayoutPlan) -> str:
    if other is None:
        return f"{value} does not fit"
    return f"{value} takes {other.seconds / best.seconds:.2f} times as long"
