"""Backwards written by hand against finite differences in float64 (along a random direction), in several tiles, and
powers of strong decays.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from packs import pack
from recurrence_cases import Case, draw, walk_alone
from relative_error import relative_error
from ropewalk.partition import partition_tokens
from ropewalk.recurrence import chunk_tiles, convolve, scan, slide_taps
from ropewalk.recurrence.adding_chunks import AddingChunks
from ropewalk.recurrence.decay_powers import raise_decay
from ropewalk.recurrence.delta_chunks import DeltaChunks
from ropewalk.recurrence.read_states import ReadStates
from ropewalk.recurrence.walk_chunks import WalkAdding, WalkErasing

CHUNKS, HEADS, KEY_HEADS, TOKENS, KEY_DIM, VALUE_DIM = 3, 4, 2, 4, 2, 3
SIZES = [2, 1]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_tiles, "_MATRICES", HEADS)
    monkeypatch.setattr(slide_taps, "_TILE_NUMBERS", 6 * 5)


def draw_rows(*shape: int) -> Tensor:
    """[chunks, *shape], to be differentiated."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(CHUNKS, *shape, generator=generator, dtype=torch.float64).requires_grad_()


def draw_total() -> Tensor:
    return (-0.3 * draw_rows(HEADS, TOKENS, 1).abs()).cumsum(2).detach().requires_grad_()


def test_chunks_and_outputs() -> None:
    keys, other = draw_rows(KEY_HEADS, TOKENS, KEY_DIM), (draw_rows(KEY_HEADS, TOKENS, KEY_DIM) + 1).detach()
    values, states = draw_rows(HEADS, TOKENS, VALUE_DIM), draw_rows(HEADS, KEY_DIM, VALUE_DIM)
    beta = draw_rows(HEADS, TOKENS, 1).sigmoid().detach().requires_grad_()
    torch.autograd.gradcheck(DeltaChunks.apply, (keys, values, draw_total(), beta), fast_mode=True)
    torch.autograd.gradcheck(AddingChunks.apply, (keys, values, draw_total()), fast_mode=True)
    torch.autograd.gradcheck(
        ReadStates.apply, (other.requires_grad_(), keys, draw_total(), values, states), fast_mode=True
    )


@pytest.mark.parametrize("norm", [1.0, 12.0])
def test_a_delta_rule_of_strong_decays_stays_finite_for_long_keys(norm: float) -> None:
    """Without its decays the system of long keys grows beyond float32; float64 solves it with them in it."""
    tokens = 64
    key = norm * torch.nn.functional.normalize(draw_rows(KEY_HEADS, tokens, 16), dim=-1)
    value, beta = draw_rows(HEADS, tokens, VALUE_DIM), draw_rows(HEADS, tokens, 1).sigmoid()
    total = (-20 - 20 * draw_rows(HEADS, tokens, 1).sigmoid()).cumsum(2)
    products = (key @ key.transpose(-1, -2)).repeat_interleave(HEADS // KEY_HEADS, dim=1)
    system = beta * products * (total - total.transpose(-1, -2)).clamp(max=0).exp()
    truth = torch.linalg.solve_triangular(system, beta * value, upper=False, unitriangular=True)
    values, *_ = DeltaChunks.apply(*(each.detach().float() for each in (key, value, total, beta)))
    assert relative_error(values.double(), truth.detach()) < 1e-5


def check(run: Callable[..., Any], *given: Tensor) -> None:
    torch.autograd.gradcheck(run, given, fast_mode=True)


@pytest.mark.parametrize("width", [VALUE_DIM, VALUE_DIM + KEY_DIM])
@pytest.mark.parametrize("rows", [1, KEY_DIM])
def test_walks(width: int, rows: int) -> None:
    """Of two segments, the second with one chunk; with a decay for a head or for each key dimension."""
    values, states = draw_rows(HEADS, TOKENS, VALUE_DIM), draw_rows(HEADS, KEY_DIM, width)
    erasing, fading = draw_rows(HEADS, TOKENS, KEY_DIM), draw_rows(HEADS, TOKENS, KEY_DIM)
    kept = draw_rows(HEADS, rows, 1)
    entry = draw_rows(HEADS, KEY_DIM, width)[:2].detach().requires_grad_()
    check(lambda *given: WalkErasing.apply(*given, SIZES), values, erasing, fading, kept, entry)
    check(lambda *given: WalkAdding.apply(*given, SIZES), states, kept, entry)


def test_a_convolution_in_tiles() -> None:
    document = pack([1, 13, 2, 9], 28)
    partition = partition_tokens(document, ranks=1)
    inputs, _ = draw(Case("convolution", document, "", taps=4))

    def run(*given: Tensor) -> Tensor:
        return convolve(*given, partition=partition, group=None)

    torch.autograd.gradcheck(run, tuple(each.requires_grad_() for each in inputs), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_of_decays_are_zero_before_they_are_denormal(dtype: torch.dtype) -> None:
    exponents = -torch.arange(0, 1000, 0.25, dtype=dtype)
    found, tiny = raise_decay(exponents), torch.finfo(dtype).tiny
    zero = found == 0
    assert (found[~zero] ** 3 >= tiny * 0.99).all()
    assert exponents[zero].max() < -29
    torch.testing.assert_close(found[~zero], exponents[~zero].exp())


@pytest.mark.parametrize("kind", ["gated_delta", "ssd", "simple_decay"])
def test_strong_decays_are_exact_and_keep_no_denormal_number(kind: str) -> None:
    """Decays of -12 a token, as published models have. In float32, against token after token in float64."""
    case = Case(kind, pack([130], 130), "", dtype=torch.float32)
    inputs, grad = draw(case)
    inputs[3] = inputs[3] - 12
    leaves = [each.float().requires_grad_() for each in inputs]
    denormal = []

    def look(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            size = tensor.abs()
            denormal.append(int(((size > 0) & (size < torch.finfo(tensor.dtype).tiny)).sum()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        out = scan(*leaves, kind=kind, partition=partition_tokens(case.document, ranks=1), group=None)
    found = [out.detach(), *torch.autograd.grad(out, leaves, grad.float())]
    truth = walk_alone(case, lambda _: (inputs, grad))
    errors = [relative_error(mine.double(), true) for mine, true in zip(found, truth, strict=True)]
    assert max(errors[:4] + errors[5:]) <= 1e-5, errors
    assert errors[4] <= 1e-4, errors  # of the decays: their sums reach -770 in a chunk, which float32 rounds by 3e-5
    assert denormal and not any(denormal)
