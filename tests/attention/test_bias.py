"""Biases against explicit float64 matrices of all pairs, forward and backward.

FlexAttention refuses to train on a CPU by a check at its door; here that check is taken away, and its own plain path,
which knows gradients, is compared with ours.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gpus import needs_gpu
from packs import mask_of, pack
from ropewalk.attention.bias import Alibi, Fire, alibi_slopes
from ropewalk.attention.flex import BLOCK_TOKENS, attend_biased, make_block_mask, require_gpu
from ropewalk.attention.gathered_keys import GatheredKeys
from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.rope.pose import Pose, pose_positions
from type_checks import no_checks

HEADS, KV_HEADS, WIDTH = 6, 2, 16
ROWS = np.concatenate([pack([70, 1, 40, 20], 150), pack([150], 150)])
SKIPPED = pose_positions(ROWS, Pose(reach=900, chunks=3), random=[stream("bias", row) for row in range(2)])


def make_fire() -> Fire:
    """Learnt values at random, bends where they start: on borders of cells, where the table is exact."""
    generator = torch.Generator().manual_seed(0)
    fire = Fire(HEADS).double()
    with torch.no_grad():
        fire.threshold.fill_(0.1)
        fire.curves.weight.copy_(torch.randn(HEADS, 32, generator=generator, dtype=torch.float64))
    return fire


def fire_matrix(fire: Fire, positions: Tensor) -> Tensor:
    """[heads, queries, keys] by the paper's formula; 0 above the diagonal's distances."""
    distance = (positions[:, None] - positions).clamp(min=0).double()
    spans = torch.log(fire.rate * torch.maximum(positions.double(), 512 * fire.threshold) + 1) + 1e-6
    squeezed = torch.log(fire.rate * distance + 1) / spans[:, None]
    return fire.curves(torch.relu(fire.hidden(squeezed[..., None]))).permute(2, 0, 1)


def alibi_matrix(_: Alibi, positions: Tensor) -> Tensor:
    return -alibi_slopes(HEADS)[:, None, None] * (positions[:, None] - positions)


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor, seen: Tensor) -> Tensor:
    key, value = (tensor.repeat_interleave(HEADS // KV_HEADS, dim=1) for tensor in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * 0.3 + bias
    out = torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)
    return out * torch.from_numpy(ROWS.reshape(-1) >= 0)[:, None, None]


def test_slopes_are_the_authors() -> None:
    eight = [2.0**-power for power in range(1, 9)]
    assert alibi_slopes(8).tolist() == eight
    assert alibi_slopes(12).tolist() == pytest.approx([*eight, 0.70710678, 0.35355339, 0.17677670, 0.08838835])
    assert alibi_slopes(1).tolist() == [2.0**-8] and len(alibi_slopes(40)) == 40
    assert alibi_slopes(3).tolist() == [2.0**-4, 2.0**-8, 2.0**-2]


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("kind", ["alibi", "fire"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_equals_the_matrix(kind: str, window: int | None, plain_flex: None) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(ROWS.size, heads, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    bias, matrix = (make_fire(), fire_matrix) if kind == "fire" else (Alibi(HEADS), alibi_matrix)
    partition = partition_tokens(ROWS, ranks=1).with_window(window)
    positions = torch.from_numpy(SKIPPED.reshape(-1))
    found = attend_biased(*inputs, bias=bias, positions=positions, partition=partition, scale=0.3)
    seen = torch.from_numpy(mask_of(ROWS, window)) | torch.eye(ROWS.size, dtype=torch.bool)
    wanted = attend_plainly(*inputs, bias=matrix(bias, positions), seen=seen)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    grad = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    learnt = dict(bias.named_parameters())
    ours, truth = (torch.autograd.grad(out, [*inputs, *learnt.values()], grad) for out in (found, wanted))
    for name, mine, true in zip(("query", "key", "value", *learnt), ours, truth, strict=True):
        # The table's gradient is not the network's in the cell where a bend lies, and near tokens crowd into few cells.
        bound = 0.1 if name.startswith("hidden") else 1e-9
        assert true.norm() > 0 and (mine - true).norm() <= bound * true.norm(), name


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kind", ["alibi", "fire"])
def test_the_compiled_kernel_equals_the_matrix_on_a_gpu(kind: str) -> None:
    with no_checks():  # torch.compile cannot trace them
        run_ranks(compare_with_the_matrix, 1, kind, setup=RankSetup("cuda"))


def compare_with_the_matrix(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(ROWS.size, heads, WIDTH, generator=generator).double().requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    bias, matrix = (make_fire(), fire_matrix) if kind == "fire" else (Alibi(HEADS), alibi_matrix)
    positions = torch.from_numpy(SKIPPED.reshape(-1))
    seen = torch.from_numpy(mask_of(ROWS)) | torch.eye(ROWS.size, dtype=torch.bool)
    wanted = attend_plainly(*inputs, bias=matrix(bias, positions), seen=seen)
    learnt = dict(bias.named_parameters())
    grad = torch.randn(wanted.shape, generator=generator).double()
    truth = torch.autograd.grad(wanted, [*inputs, *learnt.values()], grad)
    bias, device = bias.float().to(rank_device()), rank_device()
    near = [tensor.detach().float().to(device).requires_grad_() for tensor in inputs]
    found = attend_biased(
        *near, bias=bias, positions=positions.to(device), partition=partition_tokens(ROWS, ranks=1), scale=0.3
    )
    ours = torch.autograd.grad(found, [*near, *bias.parameters()], grad.float().to(device))
    for name, mine, true in zip(
        ("out", "query", "key", "value", *learnt), (found, *ours), (wanted, *truth), strict=True
    ):
        bound = 0.1 if name.startswith("hidden") else 2e-2
        assert (mine.cpu().double() - true).norm() <= bound * true.norm(), name


def test_a_curve_with_bends_anywhere_is_read_off_a_table() -> None:
    """Values against the paper's formula, gradients against the same curve as 1,024 straight pieces."""
    fire, positions = make_fire(), torch.arange(0, 4000, 17)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        fire.hidden.weight.copy_(torch.randn(32, 1, generator=generator))
        fire.hidden.bias.copy_(torch.randn(32, generator=generator))
    wanted = fire_matrix(fire, positions)
    add = fire.score_mod(positions, torch.float64)
    heads, query, key = torch.meshgrid(*(torch.arange(size) for size in wanted.shape), indexing="ij")
    found = add(torch.zeros(()), torch.tensor(0), heads, query, key).tril()
    assert found.std() > 0.1 and 0 < (found - wanted.tril()).abs().max() < 2e-3
    grid = torch.linspace(0, 1, 1025, dtype=torch.float64)
    values = fire.curves(torch.relu(fire.hidden(grid[:, None])))
    spans = torch.log(fire.rate * torch.maximum(positions.double(), 512 * fire.threshold) + 1) + 1e-6
    squeezed = torch.log(fire.rate * (positions[:, None] - positions).clamp(min=0) + 1) / spans[:, None]
    above = torch.searchsorted(grid, squeezed.detach(), right=True).clamp(max=1024)
    share = ((squeezed - grid[above - 1]) / (grid[above] - grid[above - 1]))[..., None]
    pieces = (values[above - 1] * (1 - share) + values[above] * share).permute(2, 0, 1).tril()
    torch.testing.assert_close(found, pieces, rtol=1e-9, atol=1e-9)
    grad = torch.randn(pieces.shape, generator=generator, dtype=torch.float64)
    ours, truth = (torch.autograd.grad(out, list(fire.parameters()), grad) for out in (found, pieces))
    for mine, true in zip(ours, truth, strict=True):
        assert true.norm() > 0
        torch.testing.assert_close(mine, true, rtol=1e-8, atol=1e-8)


def test_a_new_curve_adds_nothing_and_can_learn() -> None:
    fire, positions = Fire(HEADS), torch.arange(50)
    add = fire.score_mod(positions, torch.float32)
    query, key = torch.meshgrid(positions, positions, indexing="ij")
    added = add(torch.zeros(()), torch.tensor(0), torch.zeros_like(query), query, key)
    assert added.abs().max() == 0
    added.sum().backward()
    assert fire.curves.weight.grad is not None and fire.curves.weight.grad[0].abs().min() >= 0
    assert fire.curves.weight.grad[0, 0] > 0
    assert all(parameter.ndim for parameter in fire.parameters())


@pytest.mark.parametrize("window", [None, 1, 100, 200])
def test_blocks_hold_what_is_seen_and_no_more(window: int | None) -> None:
    document = np.concatenate([pack([300, 5, 90], 500), pack([129, 371], 500)])
    partition = partition_tokens(document, ranks=1).with_window(window)
    seen = mask_of(document, window) | np.eye(document.size, dtype=bool)
    bounds = GatheredKeys(partition, 0).find_bounds()
    mask = make_block_mask(*bounds, keys=document.size, device=torch.device("cpu"))
    indices, nothing = torch.arange(document.size), torch.tensor(0)
    assert (mask.mask_mod(nothing, nothing, indices[:, None], indices).numpy() == seen).all()
    blocks = math.ceil(document.size / BLOCK_TOKENS)
    beyond = (0, blocks * BLOCK_TOKENS - document.size)
    padded = np.pad(np.pad(seen, (beyond, (0, 0)), mode="edge"), ((0, 0), beyond))
    tiles = padded.reshape(blocks, BLOCK_TOKENS, blocks, BLOCK_TOKENS).swapaxes(1, 2)
    assert (mask.to_dense()[0, 0].bool().numpy() == tiles.any((2, 3))).all()
    assert mask.full_kv_num_blocks is not None and mask.full_kv_indices is not None
    for row in range(blocks):
        full = mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].tolist()
        assert full == np.flatnonzero(tiles[row].all((1, 2))).tolist()


def test_several_ranks_and_a_machine_without_a_gpu_are_refused() -> None:
    partition, nothing = partition_tokens(ROWS, ranks=2), torch.zeros(1, HEADS, WIDTH)
    with pytest.raises(UserError, match=r"parallel\.context"):
        attend_biased(nothing, nothing, nothing, bias=Alibi(HEADS), positions=torch.zeros(1).int(), partition=partition)
    with pytest.raises(UserError, match="needs a GPU"):
        require_gpu(torch.device("cpu"))
