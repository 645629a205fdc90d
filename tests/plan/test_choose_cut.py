"""The exchange of keys is the fastest that memory has room for, and a plan and a run choose the same."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from planned_recipe import make_planned
from ropewalk.attention.choose_kernel import FLEX, Demand, choose_kernel
from ropewalk.parallel import device
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition.choose import choose_partition, count_held_tokens
from ropewalk.partition.ulysses import UlyssesPartition
from ropewalk.plan.forecast import forecast_recipe, forecast_stage
from ropewalk.plan.hardware import KNOWN, Machine
from ropewalk.plan.plan import Plan
from ropewalk.plan.planned_machine import choose_machine
from ropewalk.plan.sharing import gathers_keys, plan_sharing
from ropewalk.recipe.spec import Recipe
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.train.fit_device import Fit, fit_device

LLAMA_8B = ModelShape("LlamaForCausalLM", 4096, 32, 8, 128, 14_336, 128_256, False, 8192, plain_layers(32, 5e5))
QWEN_32B = ModelShape("Qwen3ForCausalLM", 5120, 64, 8, 128, 25_600, 151_936, False, 40_960, plain_layers(64, 1e6))
LLAMA_2 = ModelShape("LlamaForCausalLM", 4096, 32, 32, 128, 11_008, 32_000, False, 4096, plain_layers(32, 1e4))


def make_recipe(hardware: str, length: str, ranks: int, **parallel: object) -> Recipe:
    parallel = {"precision": "bfloat16", "ranks": ranks, "context_parallel": ranks, **parallel}
    return make_planned([{"context_length": length}], hardware=hardware, parallel=parallel, nodes=max(1, ranks // 8))


def plan(hardware: str, length: str, ranks: int, shape: ModelShape = LLAMA_8B, **parallel: object) -> Plan:
    (found,) = forecast_recipe(make_recipe(hardware, length, ranks, **parallel), shape)
    return found


def test_keys_that_do_not_fit_go_in_a_ring() -> None:
    """Llama 3.1 8B at 4Mi over 32 H100: all needed keys of a layer are 95 GiB with their gradients."""
    free, ring, needed = (plan("h100-sxm x 8", "4Mi", 32, exchange=each) for each in ("auto", "ring", "needed_kv"))
    assert free.fits and ring.fits and not needed.fits
    assert free.step_seconds == pytest.approx(ring.step_seconds, rel=0.01)
    assert free.cut.startswith("balanced over 32 ranks, ring")
    assert "balanced over 32 ranks, needed_kv does not fit: it needs 100 GiB of the 73.3 GiB" in free.cut
    assert free.held_tokens is not None and free.held_tokens >= 4 * 2**20 / 32


def test_where_memory_decides_nothing_the_cheapest_is_taken() -> None:
    for hardware, length, ranks in (
        ("h100-sxm x 8", "1Mi", 8),
        ("h200-sxm x 8", "1Mi", 8),
        ("h100-sxm x 8", "2Mi", 32),
    ):
        free, needed = (plan(hardware, length, ranks, exchange=each) for each in ("auto", "needed_kv"))
        assert free.fits and free.held_tokens is None and "needed_kv" in free.cut
        assert free.savings == needed.savings and free.step_seconds == pytest.approx(needed.step_seconds, rel=0.01)


def test_keys_that_force_a_slower_way_to_save_memory_go_in_a_ring_too() -> None:
    free, needed = (plan("h200-sxm x 8", "2176Ki", 8, exchange=each) for each in ("auto", "needed_kv"))
    assert needed.fits and free.fits and needed.step_seconds > 1.1 * free.step_seconds
    assert "needed_kv would take 1." in free.cut and "times as long, with recompute full" in free.cut


def test_on_a_cpu_memory_is_not_asked() -> None:
    recipe = make_recipe("h100-sxm x 8", "4Mi", 8)
    tight = replace(KNOWN["h100-sxm"], name="cpu", generation=None, memory_bytes=2.0**30)
    found = forecast_stage(
        recipe.parallel.model_copy(update={"device": "cpu"}), recipe.stages[0], LLAMA_8B, machine=tight
    )
    assert not found.fits and found.held_tokens is None and "does not fit" not in found.cut


@pytest.fixture
def on_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A rank's device is a machine of the table."""

    def put(machine: Machine) -> None:
        card = SimpleNamespace(name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132)
        card.total_memory = int(machine.memory_bytes)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda of: card)
        monkeypatch.setattr(device, "count_host_bytes", lambda: machine.host_bytes)
        monkeypatch.setattr(device, "list_gpus", lambda: ())

    yield put


@pytest.mark.parametrize(
    ("shape", "length", "ranks", "given"),
    [
        (LLAMA_8B, "4Mi", 32, {}),
        (LLAMA_8B, "4Mi", 32, {"ulysses_degree": 1}),
        (LLAMA_8B, "8Mi", 32, {"recompute": "full", "mlp_tile_tokens": 4096, "offload": "inputs", "states": "host"}),
        (LLAMA_8B, "1Mi", 8, {}),
        (LLAMA_8B, "2Mi", 8, {}),
        (QWEN_32B, "2Mi", 32, {}),
        (QWEN_32B, "1Mi", 64, {"ulysses_degree": 2}),
        (LLAMA_2, "512Ki", 8, {}),
    ],
)
def test_a_run_chooses_what_the_plan_says(
    on_card: Any, shape: ModelShape, length: str, ranks: int, given: dict[str, object]
) -> None:
    recipe = make_recipe("h100-sxm x 8", length, ranks, **given)
    machine = choose_machine(recipe, shape)
    (planned,) = forecast_recipe(recipe, shape)
    on_card(machine)

    def choose() -> Fit:
        device._taken[:] = [torch.device("cuda", 0)]
        return fit_device(recipe.parallel, recipe.stages[0], shape)

    (fit,) = run_ranks(choose, 1)
    assert fit == Fit(planned.savings, planned.held_tokens)
    sharing = plan_sharing(recipe.parallel, shape, device="cuda", element_bytes=2)
    sharing = replace(sharing, held_tokens=fit.held_tokens)
    document = np.zeros((1, recipe.stages[0].context_length), np.int32)
    chosen = choose_partition(document, ranks=ranks, sharing=sharing)
    assert planned.cut.startswith(chosen.partition.describe())
    assert ("memory has room for" in chosen.explain()) == (fit.held_tokens is not None)
    packed = np.arange(document.size, dtype=np.int32)[None] // 4096
    short = choose_partition(packed, ranks=ranks, sharing=sharing).partition
    tokens = short.token_partition if isinstance(short, UlyssesPartition) else short
    assert tokens.exchange == "needed_kv" and sharing.has_room(count_held_tokens(short, sharing)), "few keys fit"


def test_a_kernel_that_gathers_keys_is_known() -> None:
    """FlexAttention takes all keys in one block, so a ring holds no fewer."""
    capped = replace(LLAMA_8B, architecture="Gemma2ForCausalLM")
    for shape, dtype, cap in (
        (LLAMA_8B, torch.bfloat16, False),
        (LLAMA_8B, torch.float32, False),
        (replace(LLAMA_8B, head_dim=132), torch.bfloat16, False),
        (capped, torch.bfloat16, True),
    ):
        kernel = choose_kernel(Demand("cuda", dtype, shape.head_dim, False, cap))
        assert gathers_keys(shape, device="cuda", element_bytes=dtype.itemsize) == (kernel == FLEX)
        assert not gathers_keys(shape, device="cpu", element_bytes=dtype.itemsize)
    asked, free = (plan("h100-sxm x 8", "256Ki", 8, capped, exchange=each) for each in ("ring", "auto"))
    assert "a ring has no effect" in asked.cut and "ring" not in free.cut
    assert asked.memory.last_block >= free.memory.last_block
