"""The four traps of ATen's CPU flash attention, as they are, and the kernel around them."""

import pytest
import torch
from torch import Tensor

from ropewalk.attention import bfloat16_tiles, cpu_kernel
from ropewalk.attention.cpu_kernel import attend_tiles, attend_tiles_backward
from ropewalk.partition.tiles import TileMask

_op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def draw_tensors(*, queries: int, keys: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Three tiles, four heads on two."""
    generator = torch.Generator().manual_seed(queries)
    shapes = ((3, queries, 4, 8), (3, keys, 2, 8), (3, keys, 2, 8))
    query, key, value = (torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return query, key, value


def score(query: Tensor, key: Tensor, mask: TileMask, scale: float) -> Tensor:
    """[tiles, queries, heads, keys], minus infinity where nothing is seen."""
    scores = torch.einsum("tqhd,tkhd->tqhk", query, key.repeat_interleave(2, dim=2)) * scale
    back = torch.arange(query.shape[1])[:, None] - torch.arange(key.shape[1])
    seen = torch.ones_like(back, dtype=torch.bool)
    if mask.causal is not None:
        seen &= back >= 0
    if mask.window is not None:
        seen &= -back >= mask.window
    return scores.masked_fill(~seen[:, None], -torch.inf)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("queries", "keys", "mask"),
    [
        (1, 1, TileMask(0, None)),
        (33, 33, TileMask(0, None)),
        (5, 40, TileMask(None, None)),
        (40, 5, TileMask(None, None)),
        (20, 21, TileMask(None, 1)),
        (20, 30, TileMask(None, -3)),
    ],
)
def test_forward_and_backward(queries: int, keys: int, mask: TileMask, dtype: torch.dtype) -> None:
    query, key, value = (t.requires_grad_() for t in draw_tensors(queries=queries, keys=keys, dtype=dtype))
    wide = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    scores = score(wide[0], wide[1], mask, 0.3)
    expected = torch.einsum("tqhk,tkhd->tqhd", scores.softmax(-1), wide[2].repeat_interleave(2, dim=2))
    with torch.no_grad():
        out, logsum = attend_tiles(query, key, value, mask=mask, scale=0.3)
        grad = torch.ones_like(out)
        grads = attend_tiles_backward(grad, query, key, value, out=out, logsum=logsum, mask=mask, scale=0.3)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    assert logsum.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out.double(), expected.detach(), atol=bound, rtol=bound)
    torch.testing.assert_close(logsum.double(), scores.logsumexp(-1).detach(), atol=bound, rtol=bound)
    truth = torch.autograd.grad(expected, wide, grad.double())
    for found, wanted in zip(grads, truth, strict=True):
        assert (found.double() - wanted).norm() <= bound * max(wanted.norm().item(), 1)


def test_a_query_with_an_infinite_logsum_gives_and_gets_no_gradient() -> None:
    query, key, value = draw_tensors(queries=12, keys=12, dtype=torch.float32)
    mask = TileMask(0, None)
    out, logsum = attend_tiles(query, key, value, mask=mask, scale=1.0)
    grad = torch.randn_like(out)
    hidden = logsum.clone()
    hidden[:, 7:] = torch.inf
    cut = [tensor[:, :7] for tensor in (grad, query, key, value)]
    expected = attend_tiles_backward(*cut, out=out[:, :7], logsum=logsum[:, :7], mask=mask, scale=1.0)
    found = attend_tiles_backward(grad, query, key, value, out=out, logsum=hidden, mask=mask, scale=1.0)
    for whole, part in zip(found, expected, strict=True):
        torch.testing.assert_close(whole[:, :7], part)
        assert whole[:, 7:].abs().max() == 0


def test_the_traps_are_still_there() -> None:
    """If torch mends one of these, the kernel may become simpler."""
    query, key, value = (t.transpose(1, 2) for t in draw_tensors(queries=2, keys=6, dtype=torch.float32))
    out, _ = _op(query, key, value, 0.0, True)
    repeated = value.repeat_interleave(2, dim=1)
    torch.testing.assert_close(out[:, :, 0], repeated[:, :, 0], msg="causal is aligned top left")
    mask = torch.full((2, 6), -torch.inf)
    _, logsum = _op(query, key, value, 0.0, False, attn_mask=mask)
    assert logsum.abs().max() == 0, "a query that sees nothing has a log-sum-exp of 0, not minus infinity"


@pytest.mark.parametrize(("queries", "keys", "causal"), [(150, 150, True), (130, 90, False), (70, 200, True)])
def test_products_of_bfloat16_are_as_near_to_float64_as_the_kernel(
    monkeypatch: pytest.MonkeyPatch, queries: int, keys: int, causal: bool
) -> None:
    """Same inputs, so both differ from float64 by their rounding alone; blocks of several rows, a rest, two tiles."""
    monkeypatch.setattr(bfloat16_tiles, "_LEAST_QUERIES", 24)
    monkeypatch.setattr(bfloat16_tiles, "_NEAR_KEYS", 20)
    monkeypatch.setattr(bfloat16_tiles, "_SCORES", 1)
    query, key, value = draw_tensors(queries=queries, keys=keys, dtype=torch.bfloat16)
    mask = TileMask(0 if causal else None, None)
    scores = score(query.double(), key.double(), mask, 0.3)
    truth = torch.einsum("tqhk,tkhd->tqhd", scores.softmax(-1), value.double().repeat_interleave(2, dim=2))
    first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    found, found_sums = bfloat16_tiles.attend_products(*first, causal=causal, scale=0.3)
    kernel, kernel_sums = attend_tiles(query, key, value, mask=mask, scale=0.3)
    bound = 2 * (kernel.double() - truth).norm()
    assert (found.transpose(1, 2).double() - truth).norm() <= bound
    assert (found_sums.transpose(1, 2) - scores.logsumexp(-1)).abs().max() <= 2**-6
    assert (kernel_sums - scores.logsumexp(-1)).abs().max() <= 2**-6


def test_only_long_bfloat16_tiles_without_gradients_take_products(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    real = cpu_kernel.attend_products

    def watched(*tensors: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        calls.append(causal)
        return real(*tensors, causal=causal, scale=scale)

    monkeypatch.setattr(cpu_kernel, "attend_products", watched)
    monkeypatch.setattr(cpu_kernel, "products_pay", lambda: True)
    monkeypatch.setattr(cpu_kernel, "_LONG_TOKENS", 16)
    for queries, dtype in ((16, torch.bfloat16), (15, torch.bfloat16), (16, torch.float32)):
        tensors = draw_tensors(queries=queries, keys=20, dtype=dtype)
        attend_tiles(*tensors, mask=TileMask(0, None), scale=0.3)
        with torch.inference_mode():
            attend_tiles(*tensors, mask=TileMask(0, None), scale=0.3)
            attend_tiles(*tensors, mask=TileMask(None, 1), scale=0.3)
    assert calls == [True]


def test_a_log_sum_exp_does_not_need_the_nearest_keys() -> None:
    """Products of bfloat16: the key with nearly all of the weight lies before those that are asked first."""
    query = torch.ones(1, 1, 300, 8, dtype=torch.bfloat16)
    key = torch.zeros(1, 1, 300, 8, dtype=torch.bfloat16)
    key[0, 0, 0] = 40.0
    out, logsum = bfloat16_tiles.attend_products(query, key, key, causal=True, scale=0.5)
    assert (out == 40.0).all() and (logsum == 160.0).all()
