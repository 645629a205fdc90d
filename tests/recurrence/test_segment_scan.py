"""scan and convolve on 1, 2 and 4 ranks against each document alone, token after token, in float64."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from packs import pack
from recurrence_cases import KINDS, Case, draw, find_scan_errors, run_shares
from ropewalk.core.error import UserError
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens, partition_tokens_and_heads
from ropewalk.recurrence import scan, segment_scan, summaries

LAYOUTS = ("contiguous", "zigzag", "balanced", "local")
PACKS = {
    "longer than a rank": np.concatenate([pack([1, 73, 2], 80), pack([67, 1], 80)]),
    "tiny": pack(np.random.default_rng(0).integers(1, 9, size=24).tolist(), 64),
}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_each_document_is_itself_alone(ranks: int) -> None:
    cases = [
        Case(kind, document, layout)
        for kind in (*KINDS, "convolution")
        for layout in LAYOUTS[: 1 if ranks == 1 else None]
        for document in [*PACKS.values()][: 1 if layout in ("balanced", "local") else None]
    ]
    cases += [case._replace(dtype=torch.float32) for case in cases if case.layout == "contiguous"]
    for case, errors in zip(cases, find_scan_errors(cases, ranks), strict=True):
        assert max(errors) <= (1e-10 if case.dtype == torch.float64 else 1e-5), (case.kind, case.layout, errors)


def test_a_kernel_longer_than_segments_reads_through_them() -> None:
    cases = [Case("convolution", PACKS["tiny"], "zigzag", taps=taps) for taps in (1, 3, 7)]
    for errors in find_scan_errors(cases, 4):
        assert max(errors) <= 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_random_documents_are_exact(kind: str) -> None:
    draws = np.random.default_rng(len(kind))
    document = pack(draws.choice([1, 2, 17, 64, 65], size=7).tolist(), 128)
    cases = [Case(kind, document, layout) for layout in ("zigzag", "balanced")]
    for errors in find_scan_errors(cases, 4):
        assert max(errors) <= 1e-10


def test_the_state_before_a_segment_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without what arrived the results are wrong, so the comparison would see a mistake."""
    monkeypatch.setattr(summaries.Summary, "apply", lambda self, before: before * 0)
    (errors,) = find_scan_errors([Case("gated_delta", PACKS["longer than a rank"], "contiguous")], 4)
    assert errors[0] > 0.1


def test_only_summaries_travel_and_their_bytes_do_not_grow() -> None:
    """Numbers that all ranks send in a forward, for one document of two lengths."""

    def count_sent() -> list[int]:
        sent, all_to_all, totals = [], dist.all_to_all_single, []

        def note(incoming: torch.Tensor, outgoing: torch.Tensor, *args: object, **kwargs: object) -> object:
            sent.append(outgoing.numel())
            return all_to_all(incoming, outgoing, *args, **kwargs)

        dist.all_to_all_single = note
        try:
            for tokens in (256, 1024):
                sent.clear()
                run_shares([Case("gated_delta", pack([tokens], tokens), "contiguous")])
                totals.append(sent[0])
                assert len(sent) == 2, "one message there, one back"
        finally:
            dist.all_to_all_single = all_to_all
        return totals

    shares = run_ranks(count_sent, 4)
    state, matrix = 4 * 3 * 5, 4 * 3 * 3
    assert [sum(each) for each in zip(*shares, strict=True)] == [3 * state + 3 * (state + matrix)] * 2


def test_whole_documents_send_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_scan, "SummaryExchange", None)
    document = pack([32] * 4, 128)
    cases = [Case(kind, document, "contiguous") for kind in KINDS]
    for errors in find_scan_errors(cases, 4):
        assert max(errors) <= 1e-10


def test_padding_gets_zeros_and_gives_none() -> None:
    document = pack([5, 40], 64)
    (share,) = run_ranks(run_shares, 1, [Case("gated_delta", document, "contiguous")])
    assert all(tensor[45:].abs().max() == 0 for tensor in share[0][1])


def test_what_is_not_affine_is_refused_by_name() -> None:
    case = Case("gated_delta", pack([8], 8), "contiguous")
    partition = partition_tokens(case.document, ranks=1)
    for kind, why in (
        ("mLSTM", "running maximum"),
        ("titans", "nonlinear"),
        ("RWKV-7", "transition"),
        ("parrot", "one affine map"),
    ):
        with pytest.raises(UserError, match=kind) as caught:
            scan(*draw(case)[0], kind=kind, partition=partition, group=None)
        assert why in caught.value.why
    heads = partition_tokens_and_heads(case.document, ranks=2, ulysses_degree=2)
    with pytest.raises(UserError, match="partition of tokens"):
        scan(*draw(case)[0], kind="gated_delta", partition=heads, group=None)
