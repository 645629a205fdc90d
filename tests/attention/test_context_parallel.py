"""attend on 1 to 4 ranks against float64 attention with the whole mask, forward and all three gradients."""

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from packs import mask_of, pack
from ropewalk.attention import attend, use_kernel
from ropewalk.core.error import UserError
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens, partition_tokens_and_heads

LAYOUTS = ("contiguous", "zigzag", "balanced", "local")
EXCHANGES = ("needed_kv", "ring", "all_gather")
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8

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


def draw_tensors(document: np.ndarray) -> list[Tensor]:
    """Query, key, value and a gradient for the output, in float64."""
    generator = torch.Generator().manual_seed(document.size)
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    return [torch.randn(document.size, n, HEAD_DIM, generator=generator, dtype=torch.float64) for n in heads]


def draw_sinks(case: Case) -> list[Tensor]:
    """Sinks as large as scores are, if the case has any."""
    return [torch.linspace(-1, 2, HEADS, dtype=torch.float64).to(case.dtype)] if case.sinks else []


def attend_whole(case: Case) -> list[Tensor]:
    """Output and gradients by the textbook, in float64, from tensors rounded to the case's dtype."""
    *inputs, grad = (tensor.to(case.dtype).double() for tensor in draw_tensors(case.document))
    query, key, value, *sinks = (tensor.double().requires_grad_() for tensor in [*inputs, *draw_sinks(case)])
    mask = torch.from_numpy(mask_of(case.document, case.window))
    keys, values = (tensor.repeat_interleave(HEADS // KV_HEADS, dim=1) for tensor in (key, value))
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
        *inputs, grad = (tensor.to(case.dtype)[own] for tensor in draw_tensors(case.document))
        leaves = [tensor.requires_grad_() for tensor in [*inputs, *draw_sinks(case)]]
        group, sinks = dist.group.WORLD if ranks > 1 else None, leaves[3] if case.sinks else None
        with use_kernel(case.kernel) if case.kernel else nullcontext():
            out = attend(*leaves[:3], partition=partition, group=group, soft_cap=case.soft_cap, sinks=sinks)
        grads = torch.autograd.grad(out, leaves, grad)
        assert {each.dtype for each in (out, *grads)} == {case.dtype}
        results.append((own.numpy(), [out.detach(), *grads]))
    return results


def find_errors(cases: list[Case], ranks: int) -> list[list[float]]:
    """For each case, the norm-relative errors of output and gradients."""
    shares = run_ranks(attend_shares, ranks, cases)
    errors = []
    for index, case in enumerate(cases):
        truth = attend_whole(case)
        found = [torch.full_like(tensor, torch.nan) for tensor in truth[:4]]
        for own, tensors in (rank[index] for rank in shares):
            for whole, share in zip(found, tensors, strict=False):
                whole[own] = share.double()
        if case.sinks:
            found.append(sum((rank[index][1][4].double() for rank in shares), torch.zeros(())))
        errors.append([((a - b).norm() / b.norm()).item() for a, b in zip(found, truth, strict=True)])
    return errors


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", PACKS)
def test_every_layout_and_exchange_is_exact(name: str, ranks: int) -> None:
    cases = [Case(PACKS[name], layout, exchange, torch.float64) for layout in LAYOUTS for exchange in EXCHANGES]
    cases += [Case(PACKS[name], layout, "needed_kv", torch.float32) for layout in LAYOUTS]
    cases += [Case(PACKS[name], "zigzag", exchange, torch.float32) for exchange in EXCHANGES[1:]]
    for case, errors in zip(cases, find_errors(cases, ranks), strict=True):
        bound = 1e-12 if case.dtype == torch.float64 else 1e-5
        assert max(errors) <= bound, (case.layout, case.exchange, case.dtype, errors)


@pytest.mark.parametrize("ranks", [1, 3])
def test_windows_are_exact(ranks: int) -> None:
    document = np.concatenate([pack([50, 1, 31, 1, 13], 96), pack([90, 6], 96), pack([70], 96)])
    cases = [
        Case(document, layout, exchange, torch.float64, window)
        for layout in ("contiguous", "zigzag", "balanced")
        for exchange in EXCHANGES
        for window in (1, 7, 64)
    ]
    for case, errors in zip(cases, find_errors(cases, ranks), strict=True):
        assert max(errors) <= 1e-12, (case.layout, case.exchange, case.window, errors)


@pytest.mark.parametrize(("ranks", "ulysses_degree"), [(2, 2), (4, 4), (4, 2)])
def test_heads_over_ranks_are_exact(ranks: int, ulysses_degree: int) -> None:
    """Also with fewer key heads than ranks: 4 ranks share 2."""
    cases = [
        Case(document, layout, exchange, torch.float64, window, ulysses_degree)
        for document in (PACKS["documents that cross cuts"], PACKS["padding"])
        for layout, exchange in (("auto", "needed_kv"), ("zigzag", "ring"))
        for window in (None, 7)
    ]
    cases.append(cases[0]._replace(dtype=torch.float32))
    for case, errors in zip(cases, find_errors(cases, ranks), strict=True):
        assert max(errors) <= (1e-12 if case.dtype == torch.float64 else 1e-5), (case, errors)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("kernel", ["reference", "reference_gathered"])
def test_ragged_tiles_are_exact(kernel: str, ranks: int) -> None:
    """What a GPU's kernels are asked for, written out: tiles merged step by step, or all keys of a piece at once."""
    window_of = {"documents that cross cuts": 7, "padding": 100}
    cases = [
        Case(document, layout, exchange, torch.float64, window, kernel=kernel)
        for name, document in PACKS.items()
        for layout, exchange in (("zigzag", "needed_kv"), ("balanced", "ring"), ("contiguous", "all_gather"))
        for window in {None, window_of.get(name)}
    ]
    for case, errors in zip(cases, find_errors(cases, ranks), strict=True):
        assert max(errors) <= 1e-12, (case.layout, case.exchange, case.window, errors)


@pytest.mark.parametrize(("ranks", "ulysses_degree"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
def test_sinks_and_soft_caps_are_exact(ranks: int, ulysses_degree: int, sinks: bool, soft_cap: float | None) -> None:
    cases = [
        Case(document, layout, exchange, torch.float64, window, ulysses_degree, soft_cap=soft_cap, sinks=sinks)
        for document in (PACKS["documents that cross cuts"], PACKS["padding"])
        for layout, exchange in (("zigzag", "needed_kv"), ("contiguous", "ring"))
        for window in (None, 7)
    ]
    for case, errors in zip(cases, find_errors(cases, ranks), strict=True):
        assert max(errors) <= 1e-12, (case, errors)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("name", "window", "soft_cap"), [("documents that cross cuts", 7, None), ("padding", None, 1.5)]
)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_over_ranks_is_exact(
    name: str, window: int | None, soft_cap: float | None, ranks: int, plain_flex: None
) -> None:
    case = Case(
        PACKS[name], "zigzag", "needed_kv", torch.float64, window, kernel="flex", soft_cap=soft_cap, sinks=not soft_cap
    )
    (errors,) = find_errors([case], ranks)
    assert max(errors) <= 1e-12, errors


def test_heads_that_cannot_be_split_are_refused_on_every_rank() -> None:
    case = Case(PACKS["tiny documents"], "auto", "auto", torch.float64, ulysses_degree=3)
    with pytest.raises(UserError, match="4 query heads and 2 key heads over 3 ranks") as caught:
        run_ranks(attend_shares, 3, [case])
    assert "take one of 1, 2, 4" in caught.value.fix


def test_bfloat16_is_summed_in_float32() -> None:
    case = Case(PACKS["one document"], "balanced", "needed_kv", torch.bfloat16)
    (errors,) = find_errors([case], 2)
    assert max(errors) < 0.01


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_two_runs_agree_in_all_bits(exchange: str) -> None:
    case = Case(PACKS["documents that cross cuts"], "zigzag", exchange, torch.float32)
    first, second = (run_ranks(attend_shares, 3, [case]) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[0][1], other[0][1], strict=True))


def test_padding_gets_zeros_and_gives_none() -> None:
    document = PACKS["padding"]
    (share,) = run_ranks(attend_shares, 1, [Case(document, "auto", "auto", torch.float32)])
    empty = document.reshape(-1) < 0
    assert all(tensor[empty].abs().max() == 0 for tensor in share[0][1])


def test_strides_of_a_model_are_taken_as_they_come() -> None:
    partition = partition_tokens(PACKS["tiny documents"], ranks=1)
    query, key, value, _ = draw_tensors(PACKS["tiny documents"])
    expected = attend(query, key, value, partition=partition, group=None)
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (query, key, value)]
    assert not turned[0].is_contiguous()
    assert torch.equal(attend(*turned, partition=partition, group=None), expected)
    backwards = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (query, key, value)]
    assert torch.equal(attend(*backwards, partition=partition, group=None), expected)


def test_scale_multiplies_the_scores() -> None:
    partition = partition_tokens(PACKS["one document"], ranks=1)
    query, key, value, _ = draw_tensors(PACKS["one document"])
    doubled = attend(2 * query, key, value, partition=partition, group=None, scale=0.1)
    torch.testing.assert_close(doubled, attend(query, key, value, partition=partition, group=None, scale=0.2))


def test_a_partition_for_others_is_our_fault() -> None:
    tensors = draw_tensors(pack([8], 8))[:3]
    with pytest.raises(AssertionError, match="the group's ranks"):
        attend(*tensors, partition=partition_tokens(pack([8], 8), ranks=2), group=None)
    with pytest.raises(AssertionError, match="the tokens that it owns"):
        attend(*tensors, partition=partition_tokens(pack([16], 16), ranks=1), group=None)
