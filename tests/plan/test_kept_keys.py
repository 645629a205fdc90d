"""Received keys that attention keeps for its backward, beside the tensors that autograd really saves."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from ropewalk.attention import attend
from ropewalk.attention.choose_kernel import use_kernel
from ropewalk.partition import partition_tokens
from ropewalk.plan.fit import estimate_split_memory
from ropewalk.plan.plan import Split
from ropewalk.plan.savings import Savings
from ropewalk.plan.traffic import Exchange
from ropewalk.plan.workload import describe_workload
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape

TOKENS, HEADS, KV_HEADS, HEAD_DIM = 64, 4, 2, 32


def count_kept_bytes(ranks: int, exchange: str) -> tuple[int, int]:
    """Of the busiest rank's attention, and the tokens whose keys it holds at once."""
    document = np.zeros((1, ranks * TOKENS), dtype=np.int32)
    partition = partition_tokens(document, ranks=ranks, layout="zigzag", exchange=exchange)
    received = partition.traffic_tokens.sum(1) if ranks > 1 else np.zeros(1, dtype=np.int64)
    alive: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        return tensor

    dist.init_process_group("fake", store=FakeStore(), rank=int(received.argmax()), world_size=ranks)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), use_kernel("varlen"):
            sizes = HEADS, KV_HEADS, KV_HEADS
            own = [torch.zeros(TOKENS, each, HEAD_DIM, dtype=torch.bfloat16, requires_grad=True) for each in sizes]
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                attend(*own, partition=partition, group=None if ranks == 1 else dist.group.WORLD)
            kept = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in alive}
            return sum(kept.values()), TOKENS if exchange == "ring" else int(received.max())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("exchange", ["needed_kv", "ring"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_two_ranks_keep_what_they_receive(ranks: int, exchange: Exchange) -> None:
    """Of one document each of two ranks needs at most what it owns; of four the last needs more, and fetches again."""
    whole, received = count_kept_bytes(ranks, exchange)
    kept = whole - count_kept_bytes(1, "needed_kv")[0]
    shape = ModelShape("LlamaForCausalLM", 128, HEADS, KV_HEADS, HEAD_DIM, 160, 128, False, 4096, plain_layers(2, 1e4))
    load = describe_workload(shape, ranks * TOKENS, sequences=1)
    least = Split(context_ranks=ranks, exchange=exchange)
    split = Split(context_ranks=ranks, exchange=exchange, received_tokens=received)
    none, full = (
        estimate_split_memory(load, Savings(way), ranks=ranks, split=split).kept
        - estimate_split_memory(load, Savings(way), ranks=ranks, split=least).kept
        for way in ("none", "full")
    )
    assert none == 2 * kept and (kept > 0) == (ranks == 2), "of two layers"
    assert full == 0, "a recomputed block receives them anew"
