"""Attention on a real GPU against float64 attention with the whole mask: packs x heads x windows x kernels.

tests/gpu_on_cpu holds what our code asks of the operators; this holds the operators to what we take them for. One
rank takes all cases, because it takes seconds to begin with a GPU.
"""

import itertools
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_cases import PACKS
from emulated_gpu import emulate
from gpus import needs_gpu
from packs import mask_of
from relative_error import relative_error
from ropewalk.attention import attend, use_kernel
from ropewalk.attention.gpu_kernels import CUDNN_HEAD_DIM
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.plan.rank_setup import RankSetup

HEADS = [(4, 4, 64), (4, 2, 64), (4, 1, 64), (4, 4, 128), (4, 2, 128), (4, 1, 128), (4, 2, 256)]
"""Query heads, key heads, head_dim."""
KERNELS = [
    (None, None), ("varlen", None), ("flash_gathered", None), ("cudnn", None),
    (None, 2), ("flash_gathered", 7), ("flash_gathered", 64),
]  # fmt: skip
"""A kernel, None for the one that is chosen, and a window."""
CASES = list(itertools.product(PACKS, HEADS, KERNELS))
MOST = 2e-2
"""Relative error of outputs and gradients in bfloat16."""


def attend_densely(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """The textbook in float64; rows that see nothing are zero."""
    keys, values = (each.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for each in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, keys) / query.shape[2] ** 0.5
    shares = scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0)
    return torch.einsum("hqk,khd->qhd", shares, values)


def draw(name: str, heads: int, kv_heads: int, head_dim: int) -> list[Tensor]:
    """Query, key, value and the output's gradient, rounded to bfloat16."""
    generator = torch.Generator().manual_seed(PACKS[name].size)
    counts = (heads, kv_heads, kv_heads, heads)
    return [torch.randn(PACKS[name].size, count, head_dim, generator=generator).bfloat16() for count in counts]


def find_errors(name: str, heads: tuple[int, int, int], kernel: str | None, window: int | None) -> float:
    """The largest relative error of the output and the three gradients."""
    rows = draw(name, *heads)
    *truths, grad = (each.double().requires_grad_() for each in rows)
    truth = attend_densely(*truths, torch.from_numpy(mask_of(PACKS[name], window)))
    expected = [truth.detach(), *torch.autograd.grad(truth, truths, grad)]
    *leaves, grad = (each.to(rank_device()).requires_grad_() for each in rows)
    partition = partition_tokens(PACKS[name], ranks=1, window=window)
    with use_kernel(kernel) if kernel else nullcontext():
        out = attend(*leaves, partition=partition, group=None)
        found = [out.detach(), *torch.autograd.grad(out, leaves, grad)]
    return max(relative_error(ours.cpu(), exact) for ours, exact in zip(found, expected, strict=True))


def name_kernel(name: str, heads: tuple[int, int, int], kernel: str | None) -> str | None:
    """The kernel of a case; None where cuDNN is named and does not take such heads, or documents of one token."""
    documents = PACKS[name].reshape(-1)
    single = 1 in np.unique_counts(documents[documents >= 0]).counts
    return None if kernel == "cudnn" and (heads[2] > CUDNN_HEAD_DIM or single) else kernel


def find_wrong_cases(cases: list[Any]) -> list[str]:
    """Of the cases those whose error is too large, or that a kernel refuses, with the reason; on one rank."""
    wrong = []
    for name, heads, (named, window) in cases:
        kernel = name_kernel(name, heads, named)
        try:
            error = find_errors(name, heads, kernel, window)
        except (RuntimeError, AssertionError) as refusal:
            wrong.append(f"{name}, {heads}, {kernel}, window {window}: {str(refusal)[:200]}")
        else:
            if not error <= MOST:
                wrong.append(f"{name}, {heads}, {kernel}, window {window}: error {error}")
    return wrong


@pytest.mark.gpu
@needs_gpu
def test_real_kernels_are_right() -> None:
    assert len(CASES) == 196
    (wrong,) = run_ranks(find_wrong_cases, 1, CASES, setup=RankSetup("cuda"))
    assert not wrong, f"{len(wrong)} of {len(CASES)} cases:\n" + "\n".join(wrong)


@pytest.mark.parametrize(("name", "window"), [("padding", None), ("documents that cross cuts", 7)])
def test_the_truth_of_these_cases_is_attention(name: str, window: int | None) -> None:
    """On a CPU with its own kernel: else a fault of these cases would be found on a GPU first."""
    assert find_errors(name, (4, 2, 64), None, window) <= MOST


def test_the_emulated_operators_take_these_cases() -> None:
    """Else a case that no kernel takes would be found on a GPU first."""
    cases = [case for case in CASES if case[:2] == ("padding", (4, 1, 64))]
    with emulate() as gpu:
        assert not find_wrong_cases(cases)
    assert {launch.operator for launch in gpu.launches} >= {"flash", "cudnn", "flash_backward", "cudnn_backward"}
    assert name_kernel("tiny documents", (4, 1, 64), "cudnn") is None
