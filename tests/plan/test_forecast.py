"""Forecasts: what they add up to, what they choose, what they refuse."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from planned_recipe import make_planned
from ropewalk.core.error import UserError
from ropewalk.plan import planned_machine
from ropewalk.plan.flops import Recompute, token_flops
from ropewalk.plan.forecast import forecast, forecast_recipe, forecast_stage
from ropewalk.plan.gpus import Gpu
from ropewalk.plan.hardware import KNOWN
from ropewalk.plan.plan import Split
from ropewalk.plan.savings import Savings
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stretch import stretch_stages
from ropewalk.rope.layers import LayerRule, plain_layers
from ropewalk.rope.scaling import Unchanged
from ropewalk.shape.model_shape import ModelShape

K = 1024


def test_a_micro_batch_is_no_larger_than_what_a_data_rank_takes(shapes: Mapping[str, ModelShape]) -> None:
    """As in training. A plan of a thousand sequences would say that nothing fits, one of a million fill the memory."""
    plans = [
        forecast_recipe(
            make_planned(
                [{"context_length": 32 * K, "step_tokens": 128 * K, "micro_batch_size": size}],
                hardware="h100-sxm x 8",
                parallel={"ranks": 8, "context_parallel": 4},
            ),
            shapes["llama-8b"],
        )
        for size in (2, 1_000_000)
    ]
    assert plans[0] == plans[1]


def test_one_h200_lies_near_the_worked_table(shapes: Mapping[str, ModelShape]) -> None:
    # The table's rates, which were guessed as 0.8 x 790 and 550/480: 7,599 tokens/s without recomputation, 5,849 with.
    rates: dict[str, Any] = {"matmul": 0.8 * 790e12, "forward": 550e12, "backward": 480e12}
    ways: list[Recompute] = ["none", "full"]
    flops = token_flops(shapes["llama-8b"], 32 * K)
    speeds = [1 / sum(flops.seconds(way, **rates)) for way in ways]
    assert speeds == pytest.approx([7_599, 5_849], rel=2e-3)
    planned = [
        forecast(shapes["llama-8b"], context_tokens=32 * K, tokens=32 * K, split=Split(savings=(Savings(way),)))
        for way in ways
    ]
    assert all(
        0.65 * plain < plan.tokens_per_second < 0.9 * plain for plain, plan in zip(speeds, planned, strict=True)
    ), "published steps are slower than products and attention alone"


def test_a_price_gives_the_cost_of_all_devices(shapes: Mapping[str, ModelShape]) -> None:
    priced = dataclasses.replace(KNOWN["h200-sxm"], dollars_per_hour=2.5)
    size: dict[str, Any] = {"context_tokens": 32 * K, "tokens": 1_000_000_000, "ranks": 8}
    plan = forecast(shapes["llama-8b"], machine=priced, **size)
    assert plan.dollars == pytest.approx(8 * plan.seconds / 3600 * 2.5)
    assert dict(plan.rows())["cost"].endswith("at $2.5 an hour")
    free = forecast(shapes["llama-8b"], machine=dataclasses.replace(priced, dollars_per_hour=None), **size)
    assert "cost" not in dict(free.rows())


def test_twenty_billion_tokens_of_llama_2_7b() -> None:
    shape = ModelShape("LlamaForCausalLM", 4096, 32, 32, 128, 11008, 32000, False, 4096, plain_layers(32, 1e4))
    plan = forecast(
        shape,
        context_tokens=16 * K,
        tokens=20_000_000_000,
        step_tokens=4_000_000,
        ranks=8,
        split=Split(context_ranks=8),
    )
    assert (plan.step_tokens, plan.steps) == (244 * 16 * K, 5002), "4M tokens are 244 whole rows"
    assert plan.fits
    assert plan.recompute == "none"
    assert plan.seconds == pytest.approx(plan.steps * plan.step_tokens / plan.tokens_per_second)
    assert "16Ki tokens" in plan.describe().splitlines()[0]


def test_recomputation_is_chosen_by_memory(shapes: Mapping[str, ModelShape]) -> None:
    """All but attention runs again, in as few blocks as memory needs."""
    found = [
        forecast(shapes["llama-1b"], context_tokens=context * K, tokens=context * K).savings
        for context in (8, 128, 256)
    ]
    assert [way.recompute for way in found] == ["none", "save_attention", "save_attention"]
    assert [way.count_again(16) for way in found] == [0, 8, 13], found


def test_attention_waits_on_the_host_only_where_the_host_has_room(shapes: Mapping[str, ModelShape]) -> None:
    """Recomputing it is slower; then only the inputs of blocks wait there."""
    split = Split(context_ranks=8)
    plans = [
        forecast(
            shapes["qwen-8b"],
            context_tokens=1024 * K,
            tokens=1024 * K,
            ranks=8,
            split=split,
            machine=dataclasses.replace(KNOWN["h100-sxm"], host_bytes=gigabytes * 1e9),
        )
        for gigabytes in (128, 64)
    ]
    ways = [(plan.recompute, plan.savings.offload, plan.savings.attention_on_host) for plan in plans]
    assert ways == [("save_attention", True, True), ("full", True, False)]
    assert plans[0].step_seconds < 0.85 * plans[1].step_seconds
    assert plans[0].fits and plans[1].fits
    assert "inputs and attention on the host" in plans[0].describe() and "host" in dict(plans[0].rows())


def test_what_never_fits_says_so(shapes: Mapping[str, ModelShape]) -> None:
    plan = forecast(shapes["llama-8b"], context_tokens=1024 * K, tokens=1024 * K)
    assert (plan.fits, plan.recompute) == (False, "full")
    assert dict(plan.rows())["fits"].startswith("no")


def test_context_ranks_split_activations_and_time(shapes: Mapping[str, ModelShape]) -> None:
    one = forecast(shapes["llama-8b"], context_tokens=128 * K, tokens=128 * K, split=Split(savings=(Savings("full"),)))
    eight = forecast(
        shapes["llama-8b"],
        context_tokens=128 * K,
        tokens=128 * K,
        ranks=8,
        split=Split(context_ranks=8, savings=(Savings("full"),)),
    )
    assert eight.memory.kept == one.memory.kept / 8
    assert one.context_bytes == one.state_bytes == 0
    assert eight.context_bytes > 0 < eight.state_bytes
    shared = eight.step_seconds - eight.times.messages - eight.times.fixed
    assert shared == pytest.approx((one.step_seconds - one.times.fixed) / 8)


def test_documents_imbalance_and_slow_links_show(shapes: Mapping[str, ModelShape]) -> None:
    def step_seconds(documents: int = 1, machine: str = "h200-sxm", **split: float) -> float:
        chosen = KNOWN[machine]
        if split.pop("slow", 0):
            chosen = dataclasses.replace(chosen, link_bytes_per_second=1e9)
        return forecast(
            shapes["llama-8b"],
            context_tokens=128 * K,
            tokens=128 * K,
            ranks=8,
            document_tokens=[128 * K // documents] * documents,
            split=dataclasses.replace(Split(context_ranks=8), **split),
            machine=chosen,
        ).step_seconds

    plain = step_seconds()
    assert step_seconds(documents=7) < 0.5 * plain
    assert step_seconds(imbalance=1.86) > 1.5 * plain
    assert step_seconds(slow=1) > 2 * plain
    assert step_seconds(machine="a100-sxm-80") > 2 * plain


def test_a_step_has_the_sequences_that_training_gives_it(shapes: Mapping[str, ModelShape]) -> None:
    plan = forecast(
        shapes["llama-1b"],
        context_tokens=1000,
        tokens=100_000,
        step_tokens=7_500,
        ranks=4,
        split=Split(context_ranks=2, micro_batch_size=1),
    )
    assert (plan.step_tokens, plan.steps, plan.work.micro_batches) == (8_000, 12, 4)
    odd = forecast(shapes["llama-1b"], context_tokens=1000, tokens=100_000, step_tokens=5_000, ranks=4)
    assert (odd.step_tokens, odd.work.micro_batches) == (5_000, 2), "the busiest of four ranks has two of five"
    assert odd.work.tokens == 2_000
    assert forecast(shapes["llama-1b"], context_tokens=1000, tokens=100, step_tokens=10).step_tokens == 1000


def test_ranks_that_do_not_split(shapes: Mapping[str, ModelShape]) -> None:
    with pytest.raises(UserError, match="6 ranks cannot be divided into groups of 4 context ranks"):
        forecast(shapes["llama-1b"], context_tokens=1000, tokens=1000, ranks=6, split=Split(context_ranks=4))


def test_a_window_saves_arithmetic_and_traffic(shapes: Mapping[str, ModelShape]) -> None:
    full = shapes["llama-8b"]
    hybrid = full.stretch(
        (LayerRule(window=4 * K),) * 3 + (LayerRule(),), rope=Unchanged(), context_tokens=full.context_tokens
    )
    plans = [
        forecast(
            shape,
            context_tokens=128 * K,
            tokens=128 * K,
            ranks=8,
            split=Split(context_ranks=8, layout="contiguous", savings=(Savings("full"),)),
        )
        for shape in (full, hybrid)
    ]
    # Each rank but the first needs the window before its range, less its first token.
    share = (4 * K - 1) / (128 * K)
    assert plans[1].context_bytes / plans[0].context_bytes == pytest.approx(1 / 4 + 3 / 4 * share)
    assert plans[0].seconds / plans[1].seconds == pytest.approx(1.95, abs=0.05)
    assert plans[1].memory == plans[0].memory, "a window changes what is computed and sent, not what is kept"


def test_a_recipe_s_pattern_is_in_its_plan(shapes: Mapping[str, ModelShape]) -> None:
    kept = {"window": "1Ki", "rope": "unchanged"}
    pattern = {"layers": [kept, kept, kept, {}]}
    plain, hybrid = (
        forecast_recipe(recipe(stages=stages), shapes["qwen-0.6b"], machine=KNOWN["h200-sxm"])
        for stages in ([{}, {}], [pattern, {}])
    )
    assert [
        ours.flops.attention < 0.3 * theirs.flops.attention for ours, theirs in zip(hybrid, plain, strict=True)
    ] == [
        True,
        True,
    ], "the second stage keeps what the first one made"
    assert hybrid[0].context_bytes < 0.3 * plain[0].context_bytes
    broken = forecast_recipe(recipe(stages=[pattern, {"layers": [kept] * 5}]), shapes["qwen-0.6b"])
    assert len(broken) == 1, "recipe/check tells why"


def recipe(stages: Sequence[Mapping[str, object]] = ({}, {}), **parallel: object) -> Recipe:
    both = {"step_tokens": "128Ki", "lr": 1e-3}
    first = {"context_length": "64Ki", "rope": {"kind": "unchanged"}, "tokens": "1M"}
    second = {
        "context_length": "128Ki",
        "tokens": "4M",
        "stop": {"metric": "retrieval", "value": 0.9, "max_steps": 10},
    }
    return make_planned(
        [{**both, **first, **stages[0]}, {**both, **second, **stages[1]}],
        parallel={"ranks": 2, "context_parallel": 2, **parallel},
    )


def test_a_recipe_has_a_plan_per_stage(shapes: Mapping[str, ModelShape]) -> None:
    cpu = dataclasses.replace(KNOWN["h200-sxm"], name="cpu")
    plans = forecast_recipe(recipe(precision="float32"), shapes["qwen-0.6b"], machine=cpu)
    assert [(plan.context_tokens, plan.steps) for plan in plans] == [(64 * K, 7), (128 * K, 10)]
    assert all(plan.fits for plan in plans)
    whole = forecast_recipe(recipe(), shapes["qwen-0.6b"], machine=KNOWN["h200-sxm"])
    assert whole[0].context_bytes < plans[0].context_bytes, "float32 on a CPU"


def test_a_stage_alone_has_the_plan_that_it_has_in_its_recipe(shapes: Mapping[str, ModelShape]) -> None:
    programme = recipe(stages=[{"rope": {"kind": "theta", "theta": 5e6}}, {}])
    plans = forecast_recipe(programme, shapes["qwen-0.6b"], machine=KNOWN["h200-sxm"])
    stretched = list(stretch_stages(programme, shapes["qwen-0.6b"]))
    alone = [
        forecast_stage(programme.parallel, stage, shape, machine=KNOWN["h200-sxm"])
        for stage, shape in zip(programme.stages, stretched, strict=True)
    ]
    assert alone == plans and len(plans) == 2


def test_a_large_model_is_not_forecast_on_a_cpu(shapes: Mapping[str, ModelShape]) -> None:
    machine = dataclasses.replace(KNOWN["a100-sxm-80"], name="cpu")
    plans = forecast_recipe(recipe(precision="bfloat16"), shapes["llama-8b"], machine=machine)
    assert plans[0].machine.name == "h200-sxm (assumed)"


def test_ranks_that_do_not_split_have_no_plan(shapes: Mapping[str, ModelShape]) -> None:
    assert forecast_recipe(recipe(ranks=3), shapes["llama-1b"]) == []


def test_the_recipes_device_is_planned_for(shapes: Mapping[str, ModelShape], monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ModelShape("LlamaForCausalLM", 64, 4, 2, 16, 128, 1000, True, 512, plain_layers(4, 1e4))

    def plan(shape: ModelShape, gpus: int, **parallel: Any) -> str:
        monkeypatch.setattr(planned_machine, "list_gpus", lambda: (Gpu("NVIDIA H100"),) * gpus)
        asked = Recipe.model_validate({**recipe().to_json(), "parallel": parallel})
        return forecast_recipe(asked, shape)[0].machine.name

    assert [plan(tiny, gpus, ranks=2) for gpus in (0, 1, 2)] == ["cpu", "cpu", "h100-sxm"]
    assert plan(tiny, 0, device="cuda") == "h200-sxm (assumed)"
    assert plan(tiny, 2, device="cpu") == plan(shapes["llama-8b"], 2, device="cpu") == "cpu"
    assert [plan(shapes["llama-8b"], gpus, ranks=2) for gpus in (0, 1)] == ["h200-sxm (assumed)", "h100-sxm"]
