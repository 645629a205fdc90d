"""Cases of recurrences over ranks, and the truth about them: token after token, each document alone, in float64."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from relative_error import relative_error
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.recurrence import convolve, scan

KINDS = ("gated_delta", "kda", "ssd", "simple_decay")
HEADS, KEY_HEADS, KEY_DIM, VALUE_DIM = 4, 2, 3, 5


class Case(NamedTuple):
    kind: str
    document: np.ndarray
    layout: str
    dtype: torch.dtype = torch.float64
    taps: int = 4


def draw(case: Case) -> tuple[list[Tensor], Tensor]:
    """Inputs of ``scan`` or ``convolve``, and a gradient for the output, in float64."""
    generator = torch.Generator().manual_seed(case.document.size)
    tokens = case.document.size

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if case.kind == "convolution":
        return [normal(tokens, 6), normal(6, case.taps), normal(6)], normal(tokens, 6)
    query, key, value = (
        normal(tokens, heads, dim) for heads, dim in ((KEY_HEADS, KEY_DIM), (KEY_HEADS, KEY_DIM), (HEADS, VALUE_DIM))
    )
    shape = {"kda": (tokens, HEADS, KEY_DIM), "simple_decay": (HEADS,)}.get(case.kind, (tokens, HEADS))
    inputs = [query, key / key.norm(dim=-1, keepdim=True), value, -normal(*shape).abs() * 0.1]
    if case.kind in ("gated_delta", "kda"):
        inputs.append(normal(tokens, HEADS).sigmoid())
    return inputs, normal(tokens, HEADS, VALUE_DIM)


def walk(case: Case, inputs: list[Tensor]) -> Tensor:
    """One document, token after token."""
    if case.kind == "convolution":
        rows, taps, bias = inputs
        padded = torch.cat([rows.new_zeros(taps.shape[1] - 1, rows.shape[1]), rows])
        return torch.stack([(padded[t : t + taps.shape[1]] * taps.T).sum(0) + bias for t in range(len(rows))])
    query, key, value, decay, *beta = inputs
    query, key = (each.repeat_interleave(HEADS // KEY_HEADS, dim=1) for each in (query, key))
    state, outputs = value.new_zeros(HEADS, KEY_DIM, VALUE_DIM), []
    for t in range(len(value)):
        kept = decay if case.kind == "simple_decay" else decay[t]
        state = (kept if kept.ndim == 2 else kept[:, None]).exp()[..., None] * state
        added = value[t]
        if beta:
            added = beta[0][t][:, None] * (added - torch.einsum("hk,hkv->hv", key[t], state))
        state = state + key[t][..., None] * added[:, None]
        outputs.append(torch.einsum("hk,hkv->hv", query[t], state))
    return torch.stack(outputs)


def shared(case: Case) -> tuple[int, ...]:
    """Inputs that all tokens share."""
    return {"convolution": (1, 2), "simple_decay": (3,)}.get(case.kind, ())


def walk_alone(case: Case, draw: Callable[[Case], tuple[list[Tensor], Tensor]] = draw) -> list[Tensor]:
    """Output and gradients of each document alone; zeros for padding."""
    inputs, grad = draw(case)
    leaves = [each.requires_grad_() for each in inputs]
    flat, width = case.document.reshape(-1), case.document.shape[1]
    names = flat.astype(np.int64) + np.arange(flat.size) // width * 1000
    parts = torch.zeros_like(grad)
    for name in np.unique(names[flat >= 0]):
        chosen = torch.from_numpy(np.flatnonzero((names == name) & (flat >= 0)))
        own = [each if place in shared(case) else each[chosen] for place, each in enumerate(leaves)]
        parts = parts.index_copy(0, chosen, walk(case, own))
    return [parts.detach(), *torch.autograd.grad(parts, leaves, grad)]


Share = tuple[np.ndarray, list[Tensor]]


def run_shares(cases: list[Case]) -> list[Share]:
    """This rank's tokens, output and gradients of each case; of shared inputs its part of the gradient."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    group, results = dist.group.WORLD if ranks > 1 else None, []
    for case in cases:
        partition = partition_tokens(case.document, ranks=ranks, layout=case.layout)
        own = torch.from_numpy(partition.owned(rank))
        inputs, grad = draw(case)
        leaves = [
            (each if place in shared(case) else each[own]).to(case.dtype).requires_grad_()
            for place, each in enumerate(inputs)
        ]
        if case.kind == "convolution":
            out = convolve(*leaves, partition=partition, group=group)
        else:
            out = scan(*leaves, kind=case.kind, partition=partition, group=group)
        grads = torch.autograd.grad(out, leaves, grad[own].to(case.dtype))
        assert {each.dtype for each in (out, *grads)} == {case.dtype}
        results.append((own.numpy(), [out.detach(), *grads]))
    return results


def find_scan_errors(
    cases: list[Case], ranks: int, run: Callable[[list[Case]], list[Share]] = run_shares
) -> list[list[float]]:
    """For each case, the norm-relative errors of output and gradients; each rank calls ``run``."""
    shares, errors, truths = run_ranks(run, ranks, cases), [], {}
    for index, case in enumerate(cases):
        key = case.kind, case.document.tobytes(), case.taps
        if key not in truths:
            truths[key] = walk_alone(case)
        truth = truths[key]
        found = [torch.zeros_like(each) for each in truth]
        for own, tensors in (rank[index] for rank in shares):
            for place, (whole, share) in enumerate(zip(found, tensors, strict=True)):
                if place - 1 in shared(case):
                    whole += share.double()
                else:
                    whole[own] = share.double()
        errors.append([relative_error(a, b) for a, b in zip(found, truth, strict=True)])
    return errors
