"""Cases of attention over ranks, and the truth about them: float64 attention with the whole mask."""

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from packs import mask_of, pack
from relative_error import relative_error
from ropewalk.attention import attend, use_kernel
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens_and_heads

LAYOUTS = ("contiguous", "zigzag", "balanced", "local")
EXCHANGES = ("needed_kv", "ring", "all_gather")
HEAD_DIM = 8

PACKS = {
    "one document": pack([96], 96),
    "documents that cross cuts": np.concatenate([pack([50, 1, 31, 1, 13], 96), pack([90, 6], 96)]),
    "tiny documents": pack(np.random.default_rng(0).integers(1, 9, size=60).tolist(), 192),
    "padding": np.concatenate([pack([40, 7], 96), pack([], 96), pack([3], 96)]),
}


class Case(NamedTuple):
    document: np.ndarray
    layout: str
    exchange: str
    dtype: torch.dtype
    window: int | None = None
    ulysses_degree: int = 1
    kernel: str | None = None
    soft_cap: float | None = None
    sinks: bool = False
    heads: int = 4
    kv_heads: int = 2


def draw_tensors(case: Case) -> list[Tensor]:
    """Query, key, value and a gradient for the output, in float64."""
    generator = torch.Generator().manual_seed(case.document.size)
    heads = (case.heads, case.kv_heads, case.kv_heads, case.heads)
    return [torch.randn(case.document.size, n, HEAD_DIM, generator=generator, dtype=torch.float64) for n in heads]


def draw_sinks(case: Case) -> list[Tensor]:
    """Sinks as large as scores are, if the case has any."""
    return [torch.linspace(-1, 2, case.heads, dtype=torch.float64).to(case.dtype)] if case.sinks else []


def attend_whole(case: Case) -> list[Tensor]:
    """Output and gradients by the textbook, in float64, from tensors rounded to the case's dtype."""
    *inputs, grad = (tensor.to(case.dtype).double() for tensor in draw_tensors(case))
    query, key, value, *sinks = (tensor.double().requires_grad_() for tensor in [*inputs, *draw_sinks(case)])
    mask = torch.from_numpy(mask_of(case.document, case.window))
    keys, values = (tensor.repeat_interleave(case.heads // case.kv_heads, dim=1) for tensor in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, keys) / HEAD_DIM**0.5
    if case.soft_cap is not None:
        scores = case.soft_cap * torch.tanh(scores / case.soft_cap)
    scores = scores.masked_fill(~mask, -torch.inf)
    for each in sinks:
        scores = torch.cat([scores, each[:, None, None].expand(-1, len(query), 1)], dim=-1)
    shares = scores.softmax(-1).nan_to_num(0)[..., : len(query)]
    out = torch.einsum("hqk,khd->qhd", shares, values)
    return [out.detach(), *torch.autograd.grad(out, (query, key, value, *sinks), grad)]


def attend_shares(cases: list[Case]) -> list[tuple[np.ndarray, list[Tensor]]]:
    """This rank's tokens, output and gradients of each case; of sinks its part of the gradient."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    results = []
    for case in cases:
        partition = partition_tokens_and_heads(
            case.document, ranks=ranks, ulysses_degree=case.ulysses_degree, layout=case.layout, exchange=case.exchange
        ).with_window(case.window)
        own = torch.from_numpy(partition.owned(rank))
        *inputs, grad = (tensor.to(case.dtype)[own] for tensor in draw_tensors(case))
        leaves = [tensor.requires_grad_() for tensor in [*inputs, *draw_sinks(case)]]
        group, sinks = dist.group.WORLD if ranks > 1 else None, leaves[3] if case.sinks else None
        with use_kernel(case.kernel) if case.kernel else nullcontext():
            out = attend(*leaves[:3], partition=partition, group=group, soft_cap=case.soft_cap, sinks=sinks)
        grads = torch.autograd.grad(out, leaves, grad)
        assert {each.dtype for each in (out, *grads)} == {case.dtype}
        results.append((own.numpy(), [out.detach(), *grads]))
    return results


def find_errors(cases: list[Case], ranks: int) -> list[list[float]]:
    """For each case, the norm-relative errors of output and gradients.

    Cases that differ in layout, exchange, degree or kernel have one truth, which is computed once.
    """
    shares = run_ranks(attend_shares, ranks, cases)
    errors = []
    truths: dict[tuple[object, ...], list[Tensor]] = {}
    for index, case in enumerate(cases):
        neutral = case._replace(layout="", exchange="", ulysses_degree=1, kernel=None)
        asked = (case.document.shape, case.document.tobytes(), *neutral[1:])
        truth = truths.get(asked) or truths.setdefault(asked, attend_whole(case))
        found = [torch.full_like(tensor, torch.nan) for tensor in truth[:4]]
        for own, tensors in (rank[index] for rank in shares):
            for whole, share in zip(found, tensors, strict=False):
                whole[own] = share.double()
        if case.sinks:
            found.append(sum((rank[index][1][4].double() for rank in shares), torch.zeros(())))
        errors.append([relative_error(a, b) for a, b in zip(found, truth, strict=True)])
    return errors
