"""attend on 1 to 4 ranks against float64 attention with the whole mask, forward and all three gradients."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from attention_cases import EXCHANGES, LAYOUTS, PACKS, Case, attend_shares, draw_tensors, find_errors
from packs import pack
from ropewalk.attention import attend
from ropewalk.attention.exchange import plan_traffic, return_needed
from ropewalk.attention.reference_kernel import ReferenceKernel
from ropewalk.core.error import UserError
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens


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
    assert "use one of 1, 2, 4" in caught.value.fix


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
    query, key, value, _ = draw_tensors(Case(PACKS["tiny documents"], "auto", "auto", torch.float64))
    expected = attend(query, key, value, partition=partition, group=None)
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (query, key, value)]
    assert not turned[0].is_contiguous()
    assert torch.equal(attend(*turned, partition=partition, group=None), expected)
    backwards = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (query, key, value)]
    assert torch.equal(attend(*backwards, partition=partition, group=None), expected)


def test_scale_multiplies_the_scores() -> None:
    partition = partition_tokens(PACKS["one document"], ranks=1)
    query, key, value, _ = draw_tensors(Case(PACKS["one document"], "auto", "auto", torch.float64))
    doubled = attend(2 * query, key, value, partition=partition, group=None, scale=0.1)
    torch.testing.assert_close(doubled, attend(query, key, value, partition=partition, group=None, scale=0.2))


def test_a_partition_for_others_is_our_fault() -> None:
    tensors = draw_tensors(Case(pack([8], 8), "auto", "auto", torch.float64))[:3]
    with pytest.raises(AssertionError, match="the group's ranks"):
        attend(*tensors, partition=partition_tokens(pack([8], 8), ranks=2), group=None)
    with pytest.raises(AssertionError, match="the tokens that it owns"):
        attend(*tensors, partition=partition_tokens(pack([16], 16), ranks=1), group=None)


def sum_parts() -> float:
    """Rank 0's sum for its first token: rank 1 sends 256, rank 2 sends 1."""
    rank, group = dist.get_rank(), dist.group.WORLD
    assert group is not None
    partition = partition_tokens(pack([12], 12), ranks=3, layout="contiguous")
    traffic = plan_traffic(partition, rank, torch.device("cpu"))
    part = torch.full((len(traffic.all_gathered), 2, 1), {1: 256.0, 2: 1.0}.get(rank, 0.0))
    return float(return_needed(iter([part]), traffic, group, torch.bfloat16)()[0, 0, 0])


@pytest.mark.parametrize(("exchange", "window"), [("needed_kv", None), ("all_gather", None), ("needed_kv", 7)])
def test_gradients_of_keys_travel_in_bfloat16_and_are_summed_in_float32(
    exchange: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the bytes; four ranks' parts of one gradient lose no more than each one's own rounding."""
    sent: list[torch.dtype] = []
    all_to_all = dist.all_to_all_single

    def note(incoming: torch.Tensor, outgoing: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.append(outgoing.dtype)
        return all_to_all(incoming, outgoing, *args, **kwargs)

    monkeypatch.setattr(dist, "all_to_all_single", note)
    kernel = "reference" if window is None else "reference_gathered"
    case = Case(PACKS["one document"], "zigzag", exchange, torch.bfloat16, window, kernel=kernel)

    def on_rank() -> list[torch.dtype]:
        attend_shares([case])
        return sent

    for kinds in run_ranks(on_rank, 4):
        assert kinds and set(kinds) == {torch.bfloat16}
    monkeypatch.undo()
    assert run_ranks(sum_parts, 3)[0] == 257, "256 in a sum of 16 bits"
    (errors,) = find_errors([case], 4)
    assert max(errors) < 0.006


@pytest.mark.parametrize("exchange", EXCHANGES[::2])
def test_messages_are_under_way_while_a_rank_computes(exchange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys go out before own tiles; so do the gradients of keys that were kept from the forward."""
    events: list[str] = []

    def note(name: str, call: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            events.append(name if kwargs.get("async_op", True) else "blocking")
            return call(*args, **kwargs)

        return noted

    for name in ("all_to_all_single", "all_gather"):
        monkeypatch.setattr(dist, name, note("send", getattr(dist, name)))
    for name in ("attend", "differentiate"):
        monkeypatch.setattr(ReferenceKernel, name, note("compute", getattr(ReferenceKernel, name)))
    document = np.concatenate([PACKS["documents that cross cuts"], PACKS["padding"][:1]])
    case = Case(document, "contiguous", exchange, torch.float32, kernel="reference")

    def on_rank() -> list[str]:
        attend_shares([case])
        return events

    for told in run_ranks(on_rank, 2):
        assert "blocking" not in told
        sends = [place for place, event in enumerate(told) if event == "send"]
        assert len(sends) == 2, "keys were kept"
        assert sends[0] == 0 and "compute" in told[sends[1] :], told
