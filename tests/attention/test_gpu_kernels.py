"""The GPU's kernels: that their operators are called as they are declared, and on a GPU that they are right."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gpus import needs_gpu
from packs import pack
from ropewalk.attention import attend, gpu_kernels, use_kernel
from ropewalk.attention.choose_kernel import Demand, choose_kernel
from ropewalk.attention.cudnn_kernel import split_tiles
from ropewalk.attention.schedule import BackwardInputs, Scores
from ropewalk.attention.varlen_schedule import CuSeqlens, TileMask, VarlenTiles
from ropewalk.core.error import UserError
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.plan.rank_setup import RankSetup

TRIANGLE, FULL, WINDOWED = TileMask(0, None), TileMask(None, None), TileMask(0, -6)


META = torch.device("meta")


def lay(masks: TileMask) -> VarlenTiles:
    """Two tiles of 100 and 200 rows, on no device."""
    ends = CuSeqlens(torch.empty(3, dtype=torch.int32, device="meta"), (0, 100, 300))
    return VarlenTiles(ends, ends, (masks, masks))


@pytest.mark.parametrize(
    ("kernel", "masks"),
    [
        (gpu_kernels.FlashVarlenKernel(), TRIANGLE),
        (gpu_kernels.FlashVarlenKernel(), FULL),
        (gpu_kernels.FlashVarlenKernel(), WINDOWED),
        (split_tiles(lay(TRIANGLE), [0, 56], META), TRIANGLE),
        (split_tiles(lay(FULL), [0, None], META), FULL),
    ],
)
def test_operators_take_what_they_are_given(kernel: Any, masks: TileMask) -> None:
    """On tensors without values, so without a GPU: the schemas, the shapes and dtypes that come back."""
    query, key = (torch.empty(300, heads, 64, device="meta", dtype=torch.bfloat16) for heads in (8, 2))
    tiles, scores = lay(masks), Scores(0.1)
    out, logsum = kernel.attend(query, key, key, tiles, scores)
    assert out.shape == query.shape and logsum.shape == (300, 8) and logsum.dtype == torch.float32
    grads = kernel.differentiate(BackwardInputs(query, out, out, logsum), key, key, tiles, scores)
    assert [grad.shape for grad in grads] == [query.shape, key.shape, key.shape]


def test_tiles_tell_their_window() -> None:
    assert lay(FULL).full and not lay(TRIANGLE).full
    assert lay(TRIANGLE).find_window() is None and lay(WINDOWED).find_window() == 7
    with pytest.raises(AssertionError, match="stands at its last key"):
        lay(TileMask(3, None)).find_window()


@pytest.mark.parametrize(
    ("demand", "kernel"),
    [
        (Demand("cpu", torch.float64, 512, windowed=True, soft_cap=False), "cpu"),
        (Demand("cpu", torch.bfloat16, 64, windowed=False, soft_cap=True), "reference"),
        (Demand("cuda", torch.bfloat16, 128, windowed=False, soft_cap=False), "flash"),
        (Demand("cuda", torch.bfloat16, 256, windowed=True, soft_cap=False), "flash_gathered"),
        (Demand("cuda", torch.bfloat16, 128, windowed=False, soft_cap=True), "flex"),
        (Demand("cuda", torch.bfloat16, 60, windowed=False, soft_cap=False), "flex"),
        (Demand("cuda", torch.float32, 128, windowed=True, soft_cap=False), "flex"),
        (Demand("cuda", torch.float64, 128, windowed=False, soft_cap=False), "reference"),
    ],
)
def test_each_demand_gets_its_kernel(demand: Demand, kernel: str) -> None:
    assert choose_kernel(demand) == kernel
    with use_kernel("reference_gathered"):
        assert choose_kernel(demand) == "reference_gathered"
    assert choose_kernel(demand) == kernel


def test_heads_beyond_every_kernel_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="no kernel for heads of 320"):
        choose_kernel(Demand("cuda", torch.bfloat16, 320, windowed=False, soft_cap=False))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("kernel", "window", "head_dim"),
    [
        *product(["varlen", "flex"], [None], [64, 128, 256]),
        *product(["cudnn"], [None], [64, gpu_kernels.CUDNN_HEAD_DIM]),
        *product(["flash_gathered"], [100], [64, 128, 256]),
    ],
)
def test_kernels_equal_the_textbook_on_a_gpu(kernel: str, window: int | None, head_dim: int) -> None:
    run_ranks(compare_with_the_textbook, 1, kernel, window, head_dim, setup=RankSetup("cuda"))


def compare_with_the_textbook(kernel: str, window: int | None, head_dim: int) -> None:
    document = np.concatenate([pack([700, 1, 300], 1024), pack([1024], 1024)])
    partition = partition_tokens(document, ranks=1, window=window)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(document.size, heads, head_dim, generator=generator) for heads in (8, 2, 2, 8)]

    def run(name: str, dtype: torch.dtype) -> list[Tensor]:
        query, key, value, grad = (tensor.bfloat16().to(rank_device(), dtype) for tensor in rows)
        leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
        with use_kernel(name):
            out = attend(*leaves, partition=partition, group=None)
            return [out, *torch.autograd.grad(out, leaves, grad)]

    for found, truth in zip(run(kernel, torch.bfloat16), run("reference", torch.float64), strict=True):
        assert (found.double() - truth).norm() <= 1e-2 * truth.norm()
