"""What attention keeps where ranks share heads (Ulysses), beside the tensors that autograd really saves."""

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from conformance.tiny_families import make_settings
from ropewalk.attention import attend
from ropewalk.attention.choose_kernel import use_kernel
from ropewalk.partition import partition_tokens
from ropewalk.partition.ulysses import AnyPartition, UlyssesPartition
from ropewalk.plan.block_memory import BlockMemory, ReceivedKeys
from ropewalk.plan.fit import estimate_split_memory
from ropewalk.plan.plan import Split
from ropewalk.plan.saved_tensors import shared_heads_bytes
from ropewalk.plan.savings import Savings
from ropewalk.plan.workload import describe_workload
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

TOKENS, HEADS, HEAD_DIM = 16, 64, 32


def make_shape(kv_heads: int) -> ModelShape:
    layers = plain_layers(2, 1e4)
    return ModelShape("LlamaForCausalLM", HEADS * HEAD_DIM, HEADS, kv_heads, HEAD_DIM, 160, 128, False, 4096, layers)


def count_kept_bytes(degree: int, kv_heads: int, value_dim: int, dtype: torch.dtype) -> int:
    """Of one rank's attention and of the projection of its output, which ``degree`` ranks compute together."""
    whole = partition_tokens(torch.zeros(1, degree * TOKENS, dtype=torch.int32).numpy(), ranks=1)
    partition: AnyPartition = whole if degree == 1 else UlyssesPartition(whole, degree)
    alive: list[torch.Tensor] = []  # keeps every tensor, so that no storage is counted twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        return tensor

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=degree)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), use_kernel("varlen"):
            # [tokens, heads, width] each
            sizes = (HEADS, HEAD_DIM), (kv_heads, HEAD_DIM), (kv_heads, value_dim)
            projected = [torch.zeros(TOKENS, *each, dtype=dtype, requires_grad=True) for each in sizes]
            weight = torch.zeros(8, HEADS * value_dim, dtype=dtype, requires_grad=True)
            group = None if degree == 1 else dist.group.WORLD
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                out = attend(*(each + 1 for each in projected), partition=partition, group=group)
                torch.nn.functional.linear(out.flatten(1), weight)
            kept = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in alive}
            return sum(kept.values()) - weight.nbytes
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kv_heads", [2, 8, 64])
@pytest.mark.parametrize("degree", [1, 2, 8, 64])
def test_attention_keeps_its_output_twice_and_copies_of_keys(degree: int, kv_heads: int, dtype: torch.dtype) -> None:
    found = count_kept_bytes(degree, kv_heads, HEAD_DIM, dtype) - count_kept_bytes(1, kv_heads, HEAD_DIM, dtype)
    shape = make_shape(kv_heads)
    assert found == TOKENS * shared_heads_bytes(shape, 0, dtype.itemsize, ulysses_degree=degree)
    blocks = (
        BlockMemory(shape, TOKENS, Savings(), dtype.itemsize, received=ReceivedKeys(0, ulysses_degree=each))
        for each in (1, degree)
    )
    alone, shared = (each.kept_by_rest() for each in blocks)
    assert shared - alone == 2 * found, "of two layers"


@pytest.mark.parametrize(("value_dim", "times"), [(HEAD_DIM, 1), (HEAD_DIM // 2, 0)])
def test_values_of_latents_that_are_padded_leave_the_output_as_it_is(value_dim: int, times: int) -> None:
    """The projection keeps an output without padding in any case."""
    found, alone = (count_kept_bytes(degree, HEADS, value_dim, torch.bfloat16) for degree in (8, 1))
    assert found - alone == times * TOKENS * HEADS * value_dim * 2


def test_latents_have_no_key_heads_to_copy() -> None:
    settings = make_settings("DeepseekV3ForCausalLM")
    narrow = parse_shape(settings, "config.json")
    assert narrow.latent is not None and narrow.value_dim < narrow.head_dim
    assert shared_heads_bytes(narrow, 0, 2, ulysses_degree=4) == 0


@pytest.mark.parametrize("recompute", ["none", "full", "save_attention"])
def test_the_memory_of_a_split_has_them(recompute: str) -> None:
    """A second run makes them anew, also where the results of attention by heads are kept."""
    way, load = Savings(recompute), describe_workload(make_shape(8), 64 * TOKENS, sequences=1)  # type: ignore[arg-type]
    alone, shared = (
        estimate_split_memory(load, way, ranks=64, split=Split(context_ranks=64, ulysses_degree=degree))
        for degree in (1, 64)
    )
    more = TOKENS * shared_heads_bytes(load.shape, 0, 2, ulysses_degree=64)
    assert more == TOKENS * HEAD_DIM * (HEADS + 2 * 56) * 2
    assert shared.kept - alone.kept == 2 * more * (recompute == "none")
    assert shared.first_block - alone.first_block == more
