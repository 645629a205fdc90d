"""Part of recurrence.py: what summaries of recurrent layers cost in Qwen3.5 9B, counted and not timed."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from packs import draw_pack
from race import tell
from recurrence_layers import Sizes
from ropewalk.partition import Partition, partition_tokens
from ropewalk.partition.cost import Heads, price_of
from ropewalk.partition.needed_keys import count_traffic_tokens
from ropewalk.partition.recurrent_cost import RecurrentStates, count_summaries
from ropewalk.recurrence import segment_scan

LARGE = Sizes("delta", width=4096, mlp_width=12288, key_heads=16, heads=32, key_dim=128, value_dim=128)
LARGE_HEADS = Heads(16, 4, 256)
"""Qwen3.5 9B, three gated delta nets for each layer with attention."""
COUNT_TOKENS, COUNT_RANKS, MEDIAN_TOKENS = 1 << 17, 8, 4096


def measure_counts(packs: int) -> None:
    """Nothing here is timed."""
    states = LARGE.states
    price = price_of(LARGE_HEADS, device="cuda", element_bytes=2, recurrent=states)
    dense = dense_operations(LARGE)
    counted = count_summary_pass(LARGE._replace(key_heads=2, heads=4)) * LARGE.heads / 4
    tell(
        "Qwen3.5 9B, summary pass of a gated delta net, operations a token of an inner segment",
        "the layer's dense operations, 3 % allowed", ours=counted, theirs=0.03 * dense, unit="operations",
        must_reach=1.0, share=counted / dense, priced=states.summary_operations(),
    )  # fmt: skip
    for tokens in (COUNT_TOKENS, 1 << 20):
        partition = partition_tokens(draw_pack(tokens, None), ranks=COUNT_RANKS, price=price)
        ring = (COUNT_RANKS - 1) * partition.local_tokens * 2 * LARGE_HEADS.kv_heads * LARGE_HEADS.head_dim * 2
        tell(
            f"Qwen3.5 9B, bytes that the busiest rank receives in a delta layer's forward, {tokens} tokens, 8 ranks",
            "a fifth of its attention layer's ring", ours=count_bytes(partition, states, 2), theirs=ring / 5,
            unit="bytes", must_reach=1.0,
        )  # fmt: skip
    documents = [draw_pack(COUNT_TOKENS, MEDIAN_TOKENS, seed) for seed in range(packs)]
    for layout, must in (("auto", 1.0), ("contiguous", None), ("zigzag", None)):
        partitions = [partition_tokens(each, ranks=COUNT_RANKS, layout=layout, price=price) for each in documents]
        ratios = [works.max() / works.mean() for works in map(count_work, partitions)]
        received = [count_summaries(each.segments, COUNT_RANKS).received_bytes(states).max() for each in partitions]
        tell(
            f"Qwen3.5 9B, work of all layers, max/mean, worst of {packs} packs around 4Ki in 128Ki, 8 ranks, {layout}",
            "1.05", ours=float(max(ratios)), theirs=1.05, unit="max/mean", must_reach=must,
            mean=float(np.mean(ratios)), attention_alone=float(max(each.balance for each in partitions)),
            summaries_mib=float(np.mean(received)) / (1 << 20), most_summaries_mib=float(max(received)) / (1 << 20),
            layouts=sorted({each.layout for each in partitions}),
        )  # fmt: skip


def dense_operations(sizes: Sizes) -> int:
    """Operations a token in the forward of a gated delta net's matrices and its MLP's."""
    inner = sizes.heads * sizes.value_dim
    return 2 * sizes.width * (sizes.channels + 2 * inner + 2 * sizes.heads + 3 * sizes.mlp_width)


def count_summary_pass(sizes: Sizes, tokens: int = 512) -> float:
    """Operations a token that ``scan`` needs more for an inner segment, as torch counts its products."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=1, world_size=3, store=FakeStore())
    document = np.zeros((1, 3 * tokens), dtype=np.int32)
    partition = partition_tokens(document, ranks=3, layout="contiguous")
    keys, values = (torch.randn(tokens, *each) for each in ((sizes.key_heads, 128), (sizes.heads, 128)))
    decay, counter = -torch.rand(tokens, sizes.heads), FlopCounterMode(display=False)
    original, found = segment_scan._sum_up, []

    def counted(*args: Any) -> Any:
        with counter:
            result = original(*args)
        found.append(counter.get_total_flops())
        return result

    segment_scan._sum_up = counted
    try:
        segment_scan.scan(
            keys, keys, values, decay, decay.sigmoid(), kind="gated_delta", partition=partition, group=dist.group.WORLD
        )
    finally:
        segment_scan._sum_up = original
        dist.destroy_process_group()
    return found[0] / tokens


def count_work(partition: Partition) -> np.ndarray:
    """Operations of each rank in the forward of four layers, three of them delta nets: [ranks]."""
    states, counts = LARGE.states, count_summaries(partition.segments, partition.ranks)
    width, chunk = LARGE_HEADS.heads * LARGE_HEADS.head_dim, 64
    scanned = 2 * LARGE.heads * LARGE.key_dim * (4 * chunk + 3 * LARGE.value_dim)
    attention = 2 * LARGE.width * (3 * width + 2 * LARGE_HEADS.kv_heads * LARGE_HEADS.head_dim + 3 * LARGE.mlp_width)
    token = 3 * (dense_operations(LARGE) + scanned) + attention
    composed = 3 * 2 * LARGE.heads * LARGE.key_dim**2 * LARGE.value_dim * counts.links
    again = 3 * states.summary_operations() * counts.inner_tokens
    work: np.ndarray = token * partition.local_tokens + 4 * width * partition.pairs + again + composed
    return work


def count_bytes(partition: Partition, states: RecurrentStates, element_bytes: int) -> float:
    """Summaries and rows before segments that the busiest rank receives in one layer's forward."""
    rows = count_traffic_tokens(partition.segments, partition.ranks, states.taps).sum(1)
    received = count_summaries(partition.segments, partition.ranks).received_bytes(states)
    return float((received + rows * states.channels * element_bytes).max())
