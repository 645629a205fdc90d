"""Random recipes for the search, and every setting of one by brute force: forecasts of explicit splits."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from planned_recipe import make_planned
from ropewalk.core.quantity import OPEN
from ropewalk.plan.forecast import forecast
from ropewalk.plan.hardware import KNOWN, Machine
from ropewalk.plan.plan import Plan, Split
from ropewalk.plan.rank_layout import Layout, StageSpace, list_layouts, open_stage_space
from ropewalk.plan.savings import Savings
from ropewalk.plan.sharing import Cut
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape

SHAPES = {
    "0.6b": ModelShape("Qwen3ForCausalLM", 1024, 16, 8, 128, 3072, 151_936, True, 40_960, plain_layers(28, 1e6)),
    "8b": ModelShape("LlamaForCausalLM", 4096, 32, 8, 128, 14_336, 128_256, False, 8192, plain_layers(32, 5e5)),
    "70b": ModelShape("LlamaForCausalLM", 8192, 64, 8, 128, 28_672, 128_256, False, 8192, plain_layers(80, 5e5)),
}


class SearchCase(NamedTuple):
    """A stage, and the machine of each of its ranks."""

    space: StageSpace
    layouts: list[Layout]
    machine: Machine


def make_case(
    name: str, device: str, length: str, ranks: int, *, micro: int | str = "auto", **parallel: object
) -> SearchCase:
    """A stage of 4M tokens a step with all counts but the ranks open, unless ``parallel`` says otherwise."""
    count = KNOWN[device].node_ranks or 1
    machine = replace(KNOWN[device], host_bytes=KNOWN[device].host_bytes * count / min(ranks, count))
    opened = {"ranks": ranks, "context_parallel": "auto", "replicas": "auto", "precision": "bfloat16"}
    recipe = make_planned([{"context_length": length, "micro_batch_size": micro}], parallel={**opened, **parallel})
    space = open_stage_space(
        recipe.parallel, recipe.stages[0], SHAPES[name], machine_of=lambda _: machine, all_degrees=True
    )
    return SearchCase(space, list_layouts(recipe.parallel, ()), machine)


def draw_case(draw: random.Random) -> SearchCase:
    """A case of any size."""
    device = draw.choice(["h100-sxm", "h200-sxm", "a100-sxm-40", "a100-sxm-80", "h20", "l40s", "4090", "b200"])
    length = draw.choice(["8Ki", "16Ki", "32Ki", "64Ki", "128Ki", "256Ki", "512Ki"])
    return make_case(draw.choice(list(SHAPES)), device, length, draw.choice([1, 2, 4, 8, 8, 16, 32]))


class Setting(NamedTuple):
    layout: Layout
    split: Split
    cut: Cut
    savings: Savings


def list_settings(case: SearchCase) -> Iterator[Setting]:
    """Every setting of a case."""
    for layout in case.layouts:
        whole = case.space.split(layout)
        for size in case.space.list_micro_batches(layout):
            split = replace(whole, micro_batch_size=size)
            ways = [each for way in whole.savings for each in spell_blocks(way, case.space.load.shape.layers)]
            for cut, way in itertools.product(case.space.list_cuts(layout, split), ways):
                yield Setting(layout, split, cut, way)


def spell_blocks(way: Savings, layers: int) -> list[Savings]:
    """``way`` with every number of recomputed blocks, where that is open."""
    if way.recompute_blocks != OPEN:
        return [way]
    return [replace(way, recompute_blocks=blocks) for blocks in range(1, layers)]


def plan_setting(case: SearchCase, setting: Setting) -> Plan:
    """The forecast of one setting, which leaves nothing open."""
    stage, layout = case.space.stage, setting.layout
    return forecast(
        case.space.load.shape,
        context_tokens=stage.context_length,
        tokens=stage.tokens,
        step_tokens=stage.step_tokens,
        ranks=layout.ranks,
        split=replace(setting.cut.apply(setting.split), savings=(setting.savings,)),
        machine=case.machine,
    )
