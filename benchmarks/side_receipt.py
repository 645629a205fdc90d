"""The receipt of one side of step.py, so that ``ropewalk receipt A B`` can say what a ratio is made of.

All sides run in the same processes, so their peak of memory is one figure, of the whole process.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from ropewalk.commands.receipt import count_lengths
from ropewalk.core.digest import digest_arrays, digest_value
from ropewalk.parallel.collective import max_over_ranks
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.measure_rates import measure_rig
from ropewalk.parallel.mesh import make_mesh
from ropewalk.parallel.peak import held_peak_bytes
from ropewalk.partition import Partition, partition_tokens
from ropewalk.plan.receipt import (
    AttentionSoftware,
    Percentiles,
    Receipt,
    Rig,
    Sequences,
    StageReceipt,
    StepTotals,
    spell_receipt,
)
from trainee import SHAPE, count_flops

FILE = "{side}-{tokens}-{dtype}.json"


def find_rig(dtype: str) -> Rig:
    """The ranks of this run with their rates, measured while all compute. Every rank must call it."""
    heads, kv_heads, head_dim = (SHAPE[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    mesh = make_mesh(dist.get_world_size(), dist.get_world_size())
    return measure_rig(mesh, dtype, heads=heads, kv_heads=kv_heads, head_dim=head_dim)


def write_side_receipt(
    folder: Path,
    side: str,
    document: np.ndarray,
    *,
    software: tuple[AttentionSoftware, str],
    dtype: str,
    rig: Rig,
    seconds: Sequence[float],
    loss: float,
) -> None:
    """Write a side's receipt on the first rank. Every rank must call it.

    ``software`` is its name and version; ``seconds`` holds each timed step, of the slowest rank, ``loss`` the first.
    """
    peak = float(max_over_ranks(torch.tensor([held_peak_bytes(rank_device())], dtype=torch.float64)))
    if dist.get_rank():
        return
    partition = partition_tokens(document, ranks=rig.ranks)
    true_pairs, tokens = int(partition.pairs.sum()), document.size
    pairs, balance = find_pairs(side, partition)
    linear = count_flops(tokens, 0) / 3
    attention = (count_flops(tokens, pairs) - count_flops(tokens, 0)) / 3.5
    true_attention = attention * true_pairs / pairs
    useful = 3 * (linear + true_attention) / rig.peak_flops
    stage = StageReceipt(
        sequences=Sequences(
            digest_value([digest_arrays(document), tokens]), tokens, tokens, 1,
            count_lengths([np.unique(document, return_counts=True)[1].tolist()]),
        ),
        precision=dtype,
        first_loss=loss,
        totals=StepTotals(linear, attention, true_attention, balance, "none"),
        rig=rig,
        tokens_per_second=Percentiles.of([tokens / each for each in seconds]),
        mfu=float(np.median([useful / each for each in seconds])),
        peak_bytes=peak,
        attention_bytes=count_side_bytes(side, partition, dtype),
        state_bytes=count_gradient_bytes(dtype, rig.ranks),
        joules=None,
        planned={},
    )  # fmt: skip
    versions = {name: version(name) for name in ("ropewalk", "torch", "transformers")}
    model = f"Llama of {SHAPE['num_hidden_layers']} layers, width {SHAPE['hidden_size']}, random weights of seed 0"
    receipt = Receipt(f"{side}, {tokens} tokens, {dtype}", *software, model, digest_value(SHAPE), versions, {}, [stage])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE.format(side=side, tokens=tokens, dtype=dtype)
    path.write_text(spell_receipt(receipt), encoding="utf-8")


def find_pairs(side: str, partition: Partition) -> tuple[float, float]:
    """The pairs that a side computes, all ranks together, and the busiest rank's over the mean."""
    if side in ("one", "pack", "zigzag"):
        return float(partition.pairs.sum()), 1.0 if side == "zigzag" else partition.balance
    whole, ranks = partition.tokens * (partition.tokens + 1) / 2, partition.ranks
    return whole, (2 * ranks - 1) / ranks if side == "contiguous" else 1.0


def count_side_bytes(side: str, partition: Partition, dtype: str) -> float:
    """Bytes that the busiest rank sends for attention in a step: keys twice, and their gradients once.

    A ring sends all keys on in each of its steps, and gradients in float32 one hop more.
    """
    width, wide = 2 * SHAPE["num_key_value_heads"] * SHAPE["head_dim"], torch.finfo(getattr(torch, dtype)).bits // 8
    if side in ("one", "pack"):
        sent = float(partition.traffic_tokens.sum(axis=0).max()) * width * wide * 3
    elif side == "ulysses":
        heads = 2 * (SHAPE["num_attention_heads"] + SHAPE["num_key_value_heads"]) * SHAPE["head_dim"]
        sent = 2 * partition.local_tokens * (partition.ranks - 1) / partition.ranks * heads * wide
    else:
        hops = partition.ranks - 1
        sent = partition.local_tokens * width * (2 * hops * wide + (hops + 1) * 4)
    return SHAPE["num_hidden_layers"] * sent


def count_gradient_bytes(dtype: str, ranks: int) -> float:
    """Bytes that a rank sends in the sum of all gradients, which is a reduce-scatter and an all-gather."""
    weights = count_flops(1, 0) / 6 + SHAPE["vocab_size"] * SHAPE["hidden_size"]
    return 2 * (ranks - 1) / ranks * weights * torch.finfo(getattr(torch, dtype)).bits / 8
