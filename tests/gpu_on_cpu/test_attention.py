"""Attention as a GPU runs it, over ranks, against float64 attention with the whole mask.

Layouts x exchanges x degrees x windows x groups of heads, drawn anew for each pack and number of ranks.
"""

import itertools
import random
from collections import Counter
from typing import Any

import pytest
import torch

from attention_cases import EXCHANGES, LAYOUTS, PACKS, Case, attend_shares, find_errors
from emulated_gpu import EmulatedGPU
from ropewalk.attention import gpu_kernels
from ropewalk.parallel.launch import run_ranks

GROUPS = ((4, 4), (4, 2), (4, 1))
DRAWN = 24


def draw_cases(name: str, ranks: int) -> list[Case]:
    """Cases of one pack; the draw is the same in every run."""
    degrees = [degree for degree in (1, 2, 4) if ranks % degree == 0]
    everything = list(itertools.product(LAYOUTS, EXCHANGES, (None, 2, 7, 64), degrees, GROUPS))
    chosen = random.Random(f"{name} {ranks}").sample(everything, DRAWN)
    return [
        Case(PACKS[name], layout, exchange, torch.float64, window, degree, heads=heads, kv_heads=kv_heads)
        for layout, exchange, window, degree, (heads, kv_heads) in chosen
    ]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", PACKS)
def test_what_a_gpu_runs_is_exact(name: str, ranks: int, gpu: EmulatedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_kernels, "CUDNN_TOKENS", 16)
    cases = draw_cases(name, ranks)
    for case, errors in zip(cases, find_errors(cases, ranks), strict=True):
        assert max(errors) <= 1e-12, (case[1:], errors)


def test_half_precision_is_what_the_operators_take(strict_gpu: EmulatedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_kernels, "CUDNN_TOKENS", 16)
    cases = [case._replace(dtype=torch.bfloat16) for name in PACKS for case in draw_cases(name, 2) if not case.window]
    for case, errors in zip(cases, find_errors(cases, 2), strict=True):
        assert max(errors) < 0.02, (case[1:], errors)
    with pytest.raises(Exception, match="float64"):
        find_errors(cases[:1] and [cases[0]._replace(dtype=torch.float64)], 1)


def test_each_kernel_takes_part(gpu: EmulatedGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would show nothing."""
    monkeypatch.setattr(gpu_kernels, "CUDNN_TOKENS", 16)

    def count(cases: list[Case]) -> Counter[str]:
        attend_shares(cases)
        return Counter(launch.operator for launch in gpu.launches)

    def run(case: Any) -> set[str]:
        return set(run_ranks(count, 2, [case])[0])

    one = Case(PACKS["one document"], "zigzag", "needed", torch.float64)
    assert run(one) == {"cudnn", "cudnn_backward"}
    assert run(one._replace(window=7)) == {"flash", "flash_backward"}
    assert run(one._replace(document=PACKS["tiny documents"])) == {"flash", "flash_backward"}
