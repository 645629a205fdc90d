"""The receipt of one side of step.py, so that ``ropewalk receipt A B`` can say what a ratio is made of.

All sides run in the same processes, so their peak of memory is one figure, of the whole process.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ropewalk.commands.receipt import count_lengths
from ropewalk.core.digest import digest_arrays, digest_value
from ropewalk.core.versions import find_versions
from ropewalk.parallel.collective import max_over_ranks
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.measure_rates import measure_rig
from ropewalk.parallel.mesh import make_mesh
from ropewalk.parallel.peak import held_peak_bytes
from ropewalk.partition import partition_tokens
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
    did: Mapping[str, Any],
) -> None:
    """Write a side's receipt on the first rank. Every rank must call it.

    ``software`` is its name and version; ``seconds`` holds each timed step, of the slowest rank, ``loss`` the first;
    ``did`` is what a step was seen to do (mission_race.py).
    """
    peak = float(max_over_ranks(torch.tensor([held_peak_bytes(rank_device())], dtype=torch.float64)))
    if dist.get_rank():
        return
    tokens = document.size
    true_pairs = int(partition_tokens(document, ranks=1).pairs.sum())
    linear = count_flops(tokens, 0) / 3
    true_attention = (count_flops(tokens, true_pairs) - count_flops(tokens, 0)) / 3.5
    attention = true_attention * did["of_mask"]
    useful = 3 * (linear + true_attention) / rig.peak_flops
    stage = StageReceipt(
        sequences=Sequences(
            digest_value([digest_arrays(document), tokens]), tokens, tokens, 1,
            count_lengths([np.unique(document, return_counts=True)[1].tolist()]),
        ),
        precision=dtype,
        first_loss=loss,
        totals=StepTotals(linear, attention, true_attention, did["balance"], "none"),
        rig=rig,
        tokens_per_second=Percentiles.of([tokens / each for each in seconds]),
        mfu=float(np.median([useful / each for each in seconds])),
        peak_bytes=peak,
        attention_bytes=did["sent_bytes"],
        state_bytes=count_gradient_bytes(dtype, rig.ranks),
        joules=None,
        planned={},
    )  # fmt: skip
    versions = find_versions(("ropewalk", "torch", "transformers"))
    model = f"Llama of {SHAPE['num_hidden_layers']} layers, width {SHAPE['hidden_size']}, random weights of seed 0"
    receipt = Receipt(f"{side}, {tokens} tokens, {dtype}", *software, model, digest_value(SHAPE), versions, {}, [stage])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE.format(side=side, tokens=tokens, dtype=dtype)
    path.write_text(spell_receipt(receipt), encoding="utf-8")


def count_gradient_bytes(dtype: str, ranks: int) -> float:
    """Bytes that a rank sends in the sum of all gradients, which is a reduce-scatter and an all-gather."""
    weights = count_flops(1, 0) / 6 + SHAPE["vocab_size"] * SHAPE["hidden_size"]
    return 2 * (ranks - 1) / ranks * weights * torch.finfo(getattr(torch, dtype)).bits / 8
