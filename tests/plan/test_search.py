"""The search takes what trying everything would take, and what arithmetic says."""

import random
from dataclasses import replace

import pytest

from ropewalk.plan.fit import estimate_split_memory, list_memory
from ropewalk.plan.savings import Savings
from ropewalk.plan.search import LayoutPlan, find_fastest, find_front
from ropewalk.rope.layers import LayerPosition
from search_cases import SearchCase, draw_case, list_settings, make_case, plan_setting

_TRIED = 500


def search(case: SearchCase) -> LayoutPlan:
    found = find_fastest([case.space], case.layouts)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(12))
def test_no_setting_is_faster_than_the_one_that_is_found(seed: int) -> None:
    """benchmarks/plan_search.py does the same for 200 cases."""
    draw = random.Random(seed)
    case = draw_case(draw)
    settings = list(list_settings(case))
    plans = [plan_setting(case, each) for each in draw.sample(settings, min(_TRIED, len(settings)))]
    fitting = [plan.seconds for plan in plans if plan.fits]
    found = find_fastest([case.space], case.layouts)
    assert found is not None or not fitting
    if found is not None and fitting:
        assert found.seconds <= min(fitting) * (1 + 1e-9)


def test_a_search_compares_no_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that asks whether two shapes are equal takes longer than all else, once there are two equal ones."""
    case = make_case("8b", "h100-sxm", "64Ki", 4, context_parallel=4, replicas=1, micro=1)
    first = search(case)
    shape = case.space.load.shape
    copied = replace(shape, positions=tuple(layer.model_copy() for layer in shape.positions))
    again = case._replace(space=replace(case.space, load=replace(case.space.load, shape=copied)))

    def refuse(one: LayerPosition, other: object) -> bool:
        raise AssertionError("two layers are compared")

    monkeypatch.setattr(LayerPosition, "__eq__", refuse)
    assert search(again).seconds == first.seconds


def test_the_fastest_is_one_of_the_settings_and_heads_the_front() -> None:
    case = make_case("8b", "h100-sxm", "64Ki", 4, context_parallel=4, replicas=1, micro=1)
    best, front = search(case), find_front([case.space], case.layouts)
    split = case.space.split(case.layouts[0])
    ways = {way for way, _ in list_memory(case.space.load, ranks=4, split=split, machine=case.machine)}
    assert any(way.recompute_blocks for way in ways), "of some ways the fewest blocks that fit"
    plans = [plan_setting(case, each) for each in list_settings(case) if each.savings in ways]
    fitting = [plan for plan in plans if plan.fits]
    assert best.seconds == pytest.approx(min(plan.seconds for plan in fitting)) == front[0].seconds
    for candidate in front:
        quicker = [plan for plan in fitting if plan.seconds < candidate.seconds * (1 - 1e-9)]
        assert all(plan.memory.peak_bytes > candidate.peak_bytes for plan in quicker), "nothing beats it"
    least = min(plan.memory.peak_bytes for plan in fitting)
    assert front[-1].peak_bytes == pytest.approx(least), "its other end needs least"


# Five cases by hand. The states of N parameters are 12 N bytes, and 4 N more for gradients; an H100 may use 73 GiB. A
# block keeps 24.5 widths of 8B's and of 70B's in bfloat16, or two of a token if all but its attention runs again.
HAND = [
    # 70B: states of 106 GB and gradients of 35 GB a rank exceed an H200, so they go to the host. 32Ki tokens keep 13 GB
    # a block, or 0.5 GB with its input on the host: beside 40 GB of those and 20 GB of weights five have room for all.
    ("70b", "h200-sxm", "32Ki", 1, ("save_attention", 75, True, True)),
    # The same over 8 context ranks: 1.6 GB a block, or 0.13. All 80 are 131 GB, which almost fits beside an embedding
    # and a head of 2 GB each.
    ("70b", "h200-sxm", "32Ki", 8, ("save_attention", 6, False, True)),
    # 8B on one card: 96 GB of states go to the host. 32Ki tokens keep 6.6 GB a block.
    ("8b", "h100-sxm", "32Ki", 1, ("save_attention", 22, True, True)),
    # 16Ki tokens a rank beside 12 GB of states: 3.3 GB a block. With inputs on the host there is room for one more.
    ("8b", "h100-sxm", "128Ki", 8, ("save_attention", 15, True, False)),
    # 4Ki tokens a rank: everything is 27 GB.
    ("8b", "h100-sxm", "32Ki", 8, ("none", None, False, False)),
]


@pytest.mark.parametrize(("name", "device", "length", "context", "expected"), HAND)
def test_what_arithmetic_says(
    name: str, device: str, length: str, context: int, expected: tuple[str, int | None, bool, bool]
) -> None:
    ranks = 8 if name == "70b" or context == 8 else 1
    case = make_case(name, device, length, ranks, context_parallel=context, replicas=1, micro=1)
    way = search(case).options[0].savings
    assert (way.recompute, way.recompute_blocks, way.offload, way.states_on_host) == expected
    assert way.mlp_tile_tokens is None


def test_messages_and_memory_decide_the_context_ranks() -> None:
    """Sequences that fit alone are not cut: nothing is sent then. Sequences that do not fit alone are."""
    alone = search(make_case("0.6b", "h100-sxm", "8Ki", 8, replicas=1))
    cut = search(make_case("8b", "h100-sxm", "512Ki", 8, replicas=1, states="device", offload="none"))
    assert alone.layout.context_ranks == 1 and cut.layout.context_ranks == 8


def test_replicas_keep_gathers_inside_a_node() -> None:
    """Over a slow network weights are not gathered for each micro-batch: each node holds them, and sums gradients."""
    case = make_case("8b", "h200-sxm", "8Ki", 32, context_parallel=1)
    slow = replace(case.machine, network_bytes_per_second=1e9)
    found = [
        search(case._replace(space=replace(case.space, machine_of=lambda _, each=each: each)))
        for each in (case.machine, slow)
    ]
    assert [each.layout.replicas for each in found] == [1, 4]


@pytest.mark.parametrize(("name", "length", "ranks"), [("8b", "128Ki", 8), ("70b", "64Ki", 32), ("0.6b", "512Ki", 4)])
def test_the_fewest_blocks_that_fit_are_recomputed(name: str, length: str, ranks: int) -> None:
    """One block less does not fit, whatever is saved beside."""
    pinned = {"context_parallel": ranks, "replicas": 1, "mlp_tile_tokens": None, "offload": "none", "states": "device"}
    case = make_case(name, "h100-sxm", length, ranks, micro=1, **pinned)
    found = search(case)
    way = found.options[0].savings
    assert way.recompute == "save_attention" and way.recompute_blocks is not None
    settings = [each for each in list_settings(case) if each.savings == way and plan_setting(case, each).fits]
    best = min(settings, key=lambda each: plan_setting(case, each).seconds)
    assert plan_setting(case, best).seconds == pytest.approx(found.seconds)
    fewer = replace(way, recompute_blocks=way.recompute_blocks - 1) if way.recompute_blocks > 1 else Savings()
    assert not plan_setting(case, best._replace(savings=fewer)).fits


def test_heads_that_are_cut_take_memory_in_each_option() -> None:
    """Nothing is received where all ranks share the heads, but attention's output is kept twice."""
    pinned = {"context_parallel": 8, "replicas": 1, "ulysses_degree": 8, "recompute": "none", "mlp_tile_tokens": None}
    case = make_case("8b", "h200-sxm", "128Ki", 8, micro=1, offload="none", states="device", **pinned)
    found = search(case).options[0]
    assert found.split.ulysses_degree == 8 and found.split.received_tokens == 0
    whole = estimate_split_memory(case.space.load, found.savings, ranks=8, split=found.split)
    alone = replace(found.split, ulysses_degree=1)
    least = estimate_split_memory(case.space.load, found.savings, ranks=8, split=alone)
    assert found.memory == whole
    assert whole.peak_bytes - least.peak_bytes == (1 << 14) * 32 * 4096 * 2
