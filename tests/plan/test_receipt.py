"""Two receipts are compared only if they did the same work; the factors of a ratio are the ratio, term by term."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from ropewalk.core.error import UserError
from ropewalk.plan.compare_receipts import FACTORS, compare_receipts, compare_stages
from ropewalk.plan.receipt import (
    Percentiles,
    Receipt,
    Rig,
    Sequences,
    StageReceipt,
    StepTotals,
    compute_seconds,
    read_receipt,
    spell_receipt,
)

RIG = Rig("CPU", "cpu", 2, 2, 2e12, "measured", 1e12, 0.5e12, 1e9)


def make_stage(totals: StepTotals, *, rest_seconds: float = 0.0, rig: Rig = RIG, loss: float = 10.0) -> StageReceipt:
    """A stage whose step takes what its rig needs for it, and ``rest_seconds`` more."""
    seconds = sum(compute_seconds(totals, rig)) + rest_seconds
    return StageReceipt(
        sequences=Sequences("abc", 1024, 1024, 7, {"512-1Ki": 2}),
        precision="float32",
        first_loss=loss,
        totals=totals,
        rig=rig,
        tokens_per_second=Percentiles.of([1024 / seconds] * 20),
        mfu=0.5,
        peak_bytes=1e6,
        attention_bytes=10,
        state_bytes=20,
        joules=None,
        planned={"tokens_per_second": 100.0},
    )


def make_receipt(stage: StageReceipt) -> Receipt:
    return Receipt("a", "ropewalk", "0.1", "tiny", "0" * 8, {"torch": "2"}, {"recipe": "1"}, [stage])


TOTALS = StepTotals(1e12, 2e12, 2e12, 1.0, "none")


def test_percentiles_of_twenty_one_steps() -> None:
    found = Percentiles.of([float(each) for each in range(21)])
    assert (found.p10, found.median, found.p90, found.count) == (2, 10, 18, 21)


def test_seconds_follow_the_passes() -> None:
    # products: 3 x 1e12 / 2 ranks / 1e12; attention: 3.5 x 2e12 / 2 ranks / 0.5e12
    assert compute_seconds(TOTALS, RIG) == (1.5, 7.0)
    assert compute_seconds(replace(TOTALS, recompute="full"), RIG) == (2.0, 9.0)
    assert compute_seconds(replace(TOTALS, recompute="save_attention", balance=1.5), RIG) == (2.0, 10.5)
    some = replace(TOTALS, recompute="full", recompute_blocks=3, linear_again=0.5, attention_again=0.25)
    assert compute_seconds(some, RIG) == (1.75, 7.5), "of the blocks that run again"


def test_a_receipt_comes_back_from_its_file(tmp_path: Path) -> None:
    receipt = make_receipt(make_stage(TOTALS))
    (tmp_path / "a.json").write_text(spell_receipt(receipt))
    assert read_receipt(tmp_path / "a.json") == receipt


def test_the_baseline_comes_from_a_closed_list(tmp_path: Path) -> None:
    entry = make_receipt(make_stage(TOTALS)).to_json() | {"software": "a fast one"}
    (tmp_path / "a.json").write_text(json.dumps(entry))
    with pytest.raises(UserError, match="no known software"):
        read_receipt(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("factor", "theirs", "expected"),
    [
        ("skipped pairs", replace(TOTALS, attention_flops=4e12), 15.5 / 8.5),
        ("balance", replace(TOTALS, balance=1.5), 12.0 / 8.5),
        ("recompute", replace(TOTALS, recompute="full"), 11.0 / 8.5),
        ("recompute", replace(TOTALS, recompute="full", linear_again=0.5, attention_again=0.5), 9.75 / 8.5),
    ],
)
def test_one_difference_is_one_factor(factor: str, theirs: StepTotals, expected: float) -> None:
    ratio = compare_stages(0, make_stage(TOTALS), make_stage(theirs))
    assert ratio.ratio == pytest.approx(expected) and ratio.factors[factor] == pytest.approx(expected)
    assert all(ratio.factors[name] == pytest.approx(1) for name in FACTORS if name != factor)


def test_kernel_and_exchange_are_told_apart() -> None:
    slower = replace(RIG, attention_flops=0.25e12)
    ratio = compare_stages(0, make_stage(TOTALS), make_stage(TOTALS, rig=slower))
    assert ratio.factors["kernel"] == pytest.approx(15.5 / 8.5) == pytest.approx(ratio.ratio)
    ratio = compare_stages(0, make_stage(TOTALS), make_stage(TOTALS, rest_seconds=1.7))
    assert ratio.factors["exchange"] == pytest.approx(1.2) == pytest.approx(ratio.ratio)


def test_the_factors_multiply_to_the_ratio() -> None:
    theirs = make_stage(StepTotals(1e12, 5e12, 2e12, 1.4, "full"), rest_seconds=3, rig=replace(RIG, ranks=2))
    ratio = compare_stages(0, make_stage(TOTALS, rest_seconds=0.2), theirs)
    assert math.prod(ratio.factors.values()) == pytest.approx(ratio.ratio)


def test_a_step_faster_than_its_rates_is_told() -> None:
    fast = replace(make_stage(TOTALS), tokens_per_second=Percentiles.of([1024.0] * 20))  # one second, not 8.5
    ratio = compare_stages(0, fast, make_stage(TOTALS))
    assert ratio.factors["exchange"] == pytest.approx(1) and "8.50 times as fast" in " ".join(ratio.notes)
    assert math.prod(ratio.factors.values()) == pytest.approx(ratio.ratio) == pytest.approx(8.5)


def test_few_steps_are_no_claim() -> None:
    few = replace(make_stage(TOTALS), tokens_per_second=Percentiles.of([100.0] * 3))
    assert "only 3 steps of the second" in " ".join(compare_stages(0, make_stage(TOTALS), few).notes)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"first_loss": 10.01}, "loss of the first step"),
        ({"precision": "bfloat16"}, "precision"),
        ({"sequences": Sequences("abd", 1024, 1024, 7, {})}, "sequences"),
        ({"sequences": Sequences("abc", 1024, 2048, 7, {})}, "tokens of a step"),
    ],
)
def test_other_work_is_refused(change: dict[str, object], what: str) -> None:
    ours, theirs = make_stage(TOTALS), replace(make_stage(TOTALS), **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=what):
        compare_receipts(make_receipt(ours), make_receipt(theirs))


def test_another_model_is_refused() -> None:
    ours = make_receipt(make_stage(TOTALS))
    with pytest.raises(UserError, match="model differs"):
        compare_receipts(ours, replace(ours, model_digest="1" * 8))
