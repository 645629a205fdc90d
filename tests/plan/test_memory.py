"""Memory formulas against published peaks, and against what autograd really keeps."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModel, LlamaConfig, PreTrainedConfig, Qwen3Config, SmolLM3Config

from layer_bytes import stored_block_bytes
from ropewalk.attention import attend
from ropewalk.attention.choose_kernel import schedule_tiles, use_kernel
from ropewalk.attention.differentiate_tiles import differentiate_blocks
from ropewalk.attention.schedule import BackwardInputs, Scores
from ropewalk.parallel.peak import measure_peak_bytes
from ropewalk.partition import partition_tokens
from ropewalk.plan.block_memory import (
    BlockMemory,
    ReceivedKeys,
    checkpoint_bytes,
    copied_bytes,
    offloaded_checkpoint_bytes,
)
from ropewalk.plan.fit import estimate_split_memory
from ropewalk.plan.memory import (
    GRADIENT_BYTES,
    MASTER_BYTES,
    MOMENT_BYTES,
    chunked_loss_bytes,
    estimate_memory,
    gathered_bytes,
)
from ropewalk.plan.plan import Split
from ropewalk.plan.savings import Savings, list_savings
from ropewalk.plan.sharing import cut_sequences, plan_sharing
from ropewalk.plan.workload import describe_workload
from ropewalk.recipe.spec import Parallel
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape

_STATE_BYTES = MASTER_BYTES + MOMENT_BYTES


def mlp_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """Bytes at the peak of one layer's backward: six tensors of the MLP's width."""
    return 6.0 * local_tokens * shape.mlp_width * element_bytes


def tiled_bytes(shape: ModelShape, local_tokens: int, *, element_bytes: int = 2) -> float:
    """Bytes at the same peak with a tiled MLP and offloaded checkpoints: 13.5 tensors of the model's width (fitted)."""
    return 13.5 * local_tokens * shape.width * element_bytes


def whole_loss_bytes(shape: ModelShape, local_tokens: int) -> float:
    """Bytes of the logits of all tokens at once: one copy in bf16 and three in fp32."""
    return 14.0 * local_tokens * shape.vocabulary


def test_four_published_peaks(shapes: Mapping[str, ModelShape]) -> None:
    # ArcticTraining's run-h200-sp1 recipes, states on the host: reported 137.36, 134.96, 126.81 and 136.15 GB.
    shape = shapes["llama-8b"]
    baseline = checkpoint_bytes(shape, 65_000) + whole_loss_bytes(shape, 65_000)
    chunked = checkpoint_bytes(shape, 300_000) + mlp_bytes(shape, 300_000)
    offloaded = offloaded_checkpoint_bytes(shape, 650_000) + mlp_bytes(shape, 650_000)
    tiled = tiled_bytes(shape, 1_200_000)
    assert [baseline / 1e9, chunked / 1e9, offloaded / 1e9, tiled / 1e9] == pytest.approx(
        [133.8, 130.3, 122.5, 132.7], abs=0.06
    )


def test_worked_table(shapes: Mapping[str, ModelShape]) -> None:
    full = estimate_memory(shapes["llama-1b"], 131072, ranks=1, savings=Savings("full"))
    states = full.states / _STATE_BYTES * (_STATE_BYTES + GRADIENT_BYTES)
    assert [states / 1e9, full.kept / 1e9] == pytest.approx([19.8, 8.6], abs=0.06)
    big = estimate_memory(shapes["llama-8b"], 32768, ranks=1, savings=Savings("full"))
    states = big.states / _STATE_BYTES * (_STATE_BYTES + GRADIENT_BYTES)
    assert [states / 1e9, big.kept / 1e9] == pytest.approx([128.5, 8.6], abs=0.06)
    chunks = [chunked_loss_bytes(shapes["llama-1b"], 4096, element_bytes=each) for each in (2, 4)]
    assert [each / 1e9 for each in chunks] == pytest.approx([2.63, 3.15], abs=0.01), "2 bytes a logit, and 4"


def test_every_way_to_save_memory_is_listed_once(shapes: Mapping[str, ModelShape]) -> None:
    shape = shapes["qwen-0.6b"]
    ways = list_savings(Parallel(), shape, host_is_apart=True)
    assert len(set(ways)) == len(ways) == 2 * (2 + 2 * (2 * 3 + 2 * 2)), "states, tiles, all blocks and few"
    found = {way: estimate_memory(shape, 32768, ranks=4, savings=way) for way in ways if way.recompute_blocks is None}
    saved, full = Savings("save_attention"), Savings("full")
    on_host = found[replace(saved, offload=True, attention_on_host=True)]
    assert on_host.host == pytest.approx((1 - 1 / shape.layers) * found[saved].kept) and not found[saved].host
    result = shape.query_width * 2 + shape.heads * 4
    assert found[saved].kept - found[full].kept == pytest.approx(shape.layers * 32768 * result)
    least = min(found.values(), key=lambda memory: memory.peak_bytes)
    assert least.states == 0 and least.gathered > 0
    rounded = list_savings(Parallel(), shape, host_is_apart=True, changes_rounding=True)
    assert {way.eight_bit for way in set(rounded) - set(ways)} == {True}


def test_the_recipe_decides_and_auto_fills_in(shapes: Mapping[str, ModelShape]) -> None:
    def list_ways(**parallel: object) -> list[Savings]:
        return list_savings(Parallel.model_validate(parallel), shapes["llama-8b"], host_is_apart=True)

    assert list_ways(recompute="none", mlp_tile_tokens=None, states="device") == [Savings()]
    assert {way.recompute for way in list_ways(recompute="full")} == {"full"}
    assert {way.mlp_tile_tokens for way in list_ways(mlp_tile_tokens=512)} == {512}
    assert all(way.offload and way.recompute != "none" for way in list_ways(offload="inputs"))
    assert not any(way.states_on_host for way in list_ways(states="device"))
    on_cpu = list_savings(Parallel(), shapes["llama-8b"], host_is_apart=False)
    assert not any(way.offload or way.states_on_host for way in on_cpu)
    with pytest.raises(ValueError, match="recompute: none"):
        Parallel(offload="inputs", recompute="none")


def count_kept_bytes(kind: type[PreTrainedConfig], dtype: torch.dtype, *, layers: int, tokens: int) -> int:
    config = kind(
        vocab_size=16,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=tokens,
        pad_token_id=None,
        attn_implementation="sdpa",
    )
    model = AutoModel.from_config(config).to(dtype)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive: list[torch.Tensor] = []  # keeps every tensor, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in alive}
    return sum(size for address, size in storages.items() if address not in weights)


@pytest.mark.parametrize(("dtype", "element_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize(("kind", "qk_norm"), [(LlamaConfig, "none"), (SmolLM3Config, "none"), (Qwen3Config, "head")])
def test_autograd_keeps_what_the_formula_says(
    kind: type[PreTrainedConfig], qk_norm: Literal["none", "head"], dtype: torch.dtype, element_bytes: int
) -> None:
    shape = ModelShape("any", 64, 4, 2, 32, 160, 16, False, 256, plain_layers(2, 1e4), qk_norm=qk_norm)
    layer = count_kept_bytes(kind, dtype, layers=3, tokens=256) - count_kept_bytes(kind, dtype, layers=2, tokens=256)
    assert layer == pytest.approx(stored_block_bytes(shape, 256, element_bytes=element_bytes), rel=0.008)


def test_pinned_buffers_are_powers_of_two(shapes: Mapping[str, ModelShape]) -> None:
    """torch's allocator of pinned memory rounds up: just above a power of two a tensor takes twice its bytes."""
    way, shape = Savings("save_attention", offload=True, attention_on_host=True), shapes["qwen-8b"]
    even, odd = (estimate_memory(shape, tokens, ranks=8, savings=way).host for tokens in (131_072, 131_080))
    assert even == copied_bytes(shape, 131_072, savings=way) and odd == 2 * even
    assert copied_bytes(shape, 131_080, savings=way) == pytest.approx(even, rel=1e-3)


def test_an_embedding_of_its_own_stays_gathered_beside_the_head(shapes: Mapping[str, ModelShape]) -> None:
    """The root of a sharded model holds both from its forward to the end of its backward (parallel/fsdp.py)."""
    shape = shapes["llama-8b"]
    assert not shape.tied
    more = gathered_bytes(shape) - gathered_bytes(replace(shape, tied=True))
    assert more == 2 * shape.vocabulary * shape.width


@pytest.mark.parametrize("exchange", ["needed_kv", "ring"])
def test_received_keys_take_what_the_formula_says(exchange: str) -> None:
    """The last of eight ranks receives all keys of the others; in a ring it holds those of one rank at a time."""
    shape = ModelShape("any", 64, 4, 2, 32, 160, 16, False, 256, plain_layers(1, 1e4))
    partition = partition_tokens(np.zeros((1, 4096), dtype=np.int32), ranks=8, layout="zigzag", exchange=exchange)
    schedule = schedule_tiles(partition, 0, "cpu", torch.device("cpu"))
    query = torch.randn(512, 4, 32)
    inputs = BackwardInputs(query, query, query, torch.full((512, 4), 50.0))
    sizes = [int((each.stop - each.start).sum()) for each in partition.blocks(0)]
    held = max(sizes)
    assert held == (512 if exchange == "ring" else 7 * 512)

    def run() -> None:
        blocks = (torch.randn(tokens, 4, 32) for tokens in sizes)  # keys and values of two heads
        for found in differentiate_blocks(schedule.steps[1:], inputs, Scores(0.2), torch.zeros_like(query), blocks):
            assert found.shape[1:] == (4, 32)

    planned = BlockMemory(shape, 512, Savings(), element_bytes=4, received=ReceivedKeys(held)).exchanged()
    queries = 8 * query.nbytes  # gradients of queries, and the copies that a tile of them needs
    assert planned <= measure_peak_bytes(run, query.device) <= 1.4 * planned + queries
    shape = replace(shape, positions=plain_layers(2, 1e4))
    least, more = (
        estimate_memory(shape, 512, ranks=8, savings=Savings("full"), received=ReceivedKeys(tokens))
        for tokens in (0, 50_000)
    )
    grown = BlockMemory(shape, 512, Savings("full"), received=ReceivedKeys(50_000))
    assert more.last_block - least.last_block == grown.exchanged() - grown.moving() > 0, "not both at once"


@pytest.mark.parametrize("exchange", ["needed_kv", "ring"])
def test_an_exchange_takes_what_the_formula_says(exchange: str) -> None:
    """The whole backward of attention on one of eight ranks: what 16 key heads take more than 8, by torch's tracker."""
    tokens, ranks = 2048, 8
    partition = partition_tokens(np.zeros((1, ranks * tokens), np.int32), ranks=ranks, exchange=exchange)
    busiest = int(partition.traffic_tokens.sum(1).argmax())
    held = tokens if exchange == "ring" else int(partition.traffic_tokens[busiest].sum())

    def track(kv_heads: int) -> float:
        tracker = MemTracker()
        with FakeTensorMode(allow_non_fake_inputs=True), use_kernel("varlen"):
            query, grad = (torch.zeros(tokens, 16, 64, dtype=torch.bfloat16) for _ in range(2))
            keys = [torch.zeros(tokens, kv_heads, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
            query.requires_grad_()
            tracker.track_external(query, grad, *keys)
            with tracker:
                attend(query, *keys, partition=partition, group=dist.group.WORLD).backward(grad)
        return float(tracker.get_tracker_snapshot("peak")[query.device]["Total"])

    dist.init_process_group("fake", store=FakeStore(), rank=busiest, world_size=ranks)
    try:
        grown = track(16) - track(8)
    finally:
        dist.destroy_process_group()
    own = 2 * tokens * 8 * 64 * (2 + 4)  # keys and values themselves, and the sum of their gradients
    shape = ModelShape("any", 1024, 16, 8, 64, 160, 16, False, 256, plain_layers(1, 1e4))
    received = ReceivedKeys(held, ring=exchange == "ring")
    planned = BlockMemory(shape, tokens, Savings(), received=received).exchanged()
    assert 0.88 * (grown - own) <= planned <= grown - own


@pytest.mark.parametrize(
    ("ranks", "given", "received"),
    [
        (8, {"exchange": "needed_kv"}, 7 / 8),
        (8, {"exchange": "ring"}, 1 / 8),
        (8, {"ulysses_degree": 8}, 0),
        (8, {"ulysses_degree": 2, "exchange": "needed_kv"}, 3 / 4 / 2),
        (64, {"ulysses_degree": 1}, 63 / 64),
        (64, {"exchange": "ring"}, 1 / 64),
        (64, {"ulysses_degree": 2, "exchange": "needed_kv"}, 31 / 32 / 2),
        (1, {}, 0),
    ],
)
def test_a_cut_says_how_many_keys_of_others_are_held(
    shapes: Mapping[str, ModelShape], ranks: int, given: dict[str, object], received: float
) -> None:
    """Of one document the rank with its last token needs all others' keys; a Ulysses group has a part of the heads."""
    parallel = Parallel.model_validate({"ranks": ranks, "context_parallel": ranks, **given})
    sharing = plan_sharing(parallel, shapes["llama-8b"], device="cuda", element_bytes=2)
    found = cut_sequences(16384, 1, ranks=ranks, sharing=sharing).received_tokens
    assert found == pytest.approx(16384 * received)


def test_a_window_in_every_layer_bounds_the_keys_that_are_held(shapes: Mapping[str, ModelShape]) -> None:
    shape = shapes["llama-8b"]
    windowed = replace(
        shape, positions=tuple(each.model_copy(update={"window_tokens": 512}) for each in shape.positions)
    )
    split = Split(context_ranks=8, received_tokens=100_000.0)
    full, few, ring = (
        estimate_split_memory(
            describe_workload(own, 1 << 17, sequences=1), Savings("full"), ranks=8, split=replace(split, exchange=way)
        ).last_block
        for own, way in ((shape, "needed_kv"), (windowed, "needed_kv"), (windowed, "ring"))
    )
    assert few < full < ring
