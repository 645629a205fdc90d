"""Attention as a GPU runs it, over ranks, against float64 attention with the whole mask.

Layouts x exchanges x degrees x windows x groups of heads, drawn anew for each pack and number of ranks.
"""

import itertools
import random

import pytest
import torch

from attention_cases import EXCHANGES, LAYOUTS, Case, attend_shares, find_errors
from attention_cases import PACKS as EVERY_PACK
from emulated_gpu import EmulatedGPU, Launch
from packs import pack
from ropewalk.parallel.launch import run_ranks

GROUPS = ((4, 4), (4, 2), (4, 1))
DRAWN = 24
PACKS = {**EVERY_PACK, "a triangle to pad": pack([70, 26], 96)}


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
def test_what_a_gpu_runs_is_exact(name: str, ranks: int, gpu: EmulatedGPU, small_tiles: None) -> None:
    cases = draw_cases(name, ranks)
    for case, errors in zip(cases, find_errors(cases, ranks), strict=True):
        assert max(errors) <= 1e-12, (case[1:], errors)


def test_half_precision_is_what_the_operators_take(strict_gpu: EmulatedGPU, small_tiles: None) -> None:
    cases = [case._replace(dtype=torch.bfloat16) for name in PACKS for case in draw_cases(name, 2) if not case.window]
    for case, errors in zip(cases, find_errors(cases, 2), strict=True):
        assert max(errors) < 0.02, (case[1:], errors)
    with pytest.raises(Exception, match="float64"):
        find_errors(cases[:1] and [cases[0]._replace(dtype=torch.float64)], 1)


def test_each_kernel_takes_part(gpu: EmulatedGPU, small_tiles: None) -> None:
    """Else the tests above would show nothing."""

    def run(case: Case, ranks: int) -> list[Launch]:
        def on_rank() -> list[Launch]:
            attend_shares([case])
            return gpu.launches

        return run_ranks(on_rank, ranks)[0]

    def name(launches: list[Launch]) -> set[str]:
        return {launch.operator for launch in launches}

    one = Case(PACKS["one document"], "zigzag", "needed_kv", torch.float64)
    assert name(run(one, 2)) == {"cudnn", "cudnn_backward"}
    assert name(run(one._replace(window=7), 2)) == {"flash", "flash_backward"}
    assert name(run(one._replace(document=PACKS["tiny documents"]), 2)) == {"flash", "flash_backward"}
    padded = run(one._replace(document=PACKS["a triangle to pad"]), 1)
    assert [launch.sequences for launch in padded] == [((84, 84, True),), ((26, 26, True),)] * 2
    assert {launch.kv_heads for launch in padded} == {2}, "keys are not repeated for their group of query heads"
