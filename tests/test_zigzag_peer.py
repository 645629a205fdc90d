"""The document-true ring that step.py races against computes what plain attention per document does, and its gradients.

A peer that computed something else would make every ratio against it worthless.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import scaled_dot_product_attention

from ropewalk.parallel.launch import run_ranks

BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")
LENGTHS = (8, 24, 4, 28)
RANKS = 2


def attend_both() -> float:
    """The largest difference on this rank, of the output and all gradients, in float32."""
    sys.path.insert(0, BENCHMARKS)
    from zigzag_ring import ZigzagRing, own_zigzag_rows

    document = np.repeat(np.arange(len(LENGTHS)), LENGTHS)[None].astype(np.int32)
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(1, heads, document.size, 16, generator=generator) for heads in (4, 2, 2, 4)]
    leaves = [each.clone().requires_grad_() for each in whole[:3]]
    ids = torch.from_numpy(document[0])
    seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril() & (ids[:, None] == ids)
    truth = scaled_dot_product_attention(*leaves, attn_mask=seen, enable_gqa=True)
    wanted = [truth.detach(), *torch.autograd.grad(truth, leaves, whole[3])]
    own = torch.from_numpy(own_zigzag_rows(document, ranks=RANKS, rank=dist.get_rank()))
    mine = [each[:, :, own].clone().requires_grad_() for each in whole[:3]]
    out = ZigzagRing(document, dist.group.WORLD).attend(*mine, scale=0.25)
    found = [out.detach(), *torch.autograd.grad(out, mine, whole[3][:, :, own])]
    return max(float((a - b[:, :, own]).abs().max()) for a, b in zip(found, wanted, strict=True))


def test_the_document_true_ring_is_exact() -> None:
    assert max(run_ranks(attend_both, RANKS)) < 1e-5


def test_a_pack_is_rounded_to_what_a_zigzag_can_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from zigzag_ring import round_pack

    rounded = round_pack(np.repeat(np.arange(3), (7, 3, 22))[None], 4)
    assert np.unique(rounded, return_counts=True)[1].tolist() == [4, 4, 20, 4] and rounded.size == 32
