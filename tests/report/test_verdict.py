"""What is asked of a run, of the packaged base and of others, and what is only reported."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from invented_run import RECIPE, write_run
from ropewalk.core.record import Score, read_scores, write_scores
from ropewalk.recipe.load import load_recipe
from ropewalk.report.contents import read_run
from ropewalk.report.page import strict_code, summarise, write_report
from ropewalk.report.target import Sense, Verdict, format_bound, format_value
from ropewalk.report.verdict import judge_measures


def find(run: Path, key: str, model: str) -> Verdict:
    (found,) = [verdict for verdict in judge_measures(read_run(run)) if (verdict.key, verdict.model) == (key, model)]
    return found


def change_scores(run: Path, change: Callable[[Score], Score]) -> None:
    write_scores(run / "scores.json", [change(score) for score in read_scores(run / "scores.json")])


def test_the_packaged_base_has_bounds_of_its_own(run: Path) -> None:
    bounds = {(verdict.key, verdict.model): verdict.bound for verdict in judge_measures(read_run(run))}
    assert bounds == {
        ("gain/context", "base"): None,
        ("gain/context", "zero-shot"): None,
        ("gain/context", "extended"): ("<=", -0.001),
        ("retrieval/1x", "zero-shot"): None,
        ("retrieval/4x", "zero-shot"): None,
        ("retrieval/8x", "zero-shot"): None,
        ("nll/gap", "zero-shot"): None,
        ("retrieval/1x", "base"): (">=", 0.95),
        ("retrieval/1x", "extended"): (">=", 0.95),
        ("retrieval/4x", "base"): ("<=", 0.65),
        ("retrieval/4x", "extended"): (">=", 0.95),
        ("retrieval/8x", "base"): ("<=", 0.50),
        ("retrieval/8x", "extended"): (">=", 0.90),
        ("nll/gap", "base"): (">=", 0.2),
        ("nll/gap", "extended"): ("<=", 0.05),
        ("short/worst", "extended"): ("<=", 0.02),
        ("short/mean", "extended"): ("<=", 0.02),
    }
    assert [verdict.key for verdict in judge_measures(read_run(run)) if verdict.aim] == ["retrieval/8x"]


def test_another_base_is_shown_without_bounds(run: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"model": "some/other-base@main"}))
    verdicts = judge_measures(read_run(run))
    assert all(verdict.bound is None for verdict in verdicts if verdict.model == "base")
    assert summarise(run)["targets_set"] == 6
    assert summarise(run)["text"].splitlines()[2].split() == ["measure", "base", "zero-shot", "extended", "target"]


@pytest.mark.parametrize(("half", "outcome"), [(1e-7, "missed"), (0.0008, "missed"), (0.002, "undecided")])
def test_a_model_that_sees_only_its_window_misses_the_context_gain(run: Path, half: float, outcome: str) -> None:
    """Its gain is 0 up to rounding (tests/evaluate/test_gain_by_distance.py); only the interval's width differs."""

    def blind(score: Score) -> Score:
        mine = score.model == "extended" and score.task == "gain/context"
        return replace(score, value=1e-9, low=-half, high=half) if mine else score

    change_scores(run, blind)
    assert find(run, "gain/context", "extended").outcome == outcome
    assert ("Missed: context gain" in summarise(run)["text"]) is (outcome == "missed")


def test_a_missed_target_fails_and_a_missed_aim_does_not(run: Path) -> None:
    def change(score: Score) -> Score:
        falls = score.model == "extended" and score.task == "retrieval/key_value" and score.context_tokens >= 2048
        return replace(score, value=0.8, low=0.77, high=0.83) if falls else score

    change_scores(run, change)
    summary = summarise(run)
    assert (summary["targets_met"], summary["targets_set"]) == (9, 10)
    assert "9 of 10 targets are met. Missed: retrieval at 4x (2Ki), extended." in summary["text"]
    assert "FAIL, ≥ 95 %" in summary["text"] and "aim missed, ≥ 90 %" in summary["text"]


def drop_scores(run: Path, task: str) -> None:
    write_scores(
        run / "scores.json", [one for one in read_scores(run / "scores.json") if not one.task.startswith(task)]
    )


def test_the_gap_is_shown_as_measured(run: Path) -> None:
    gap = find(run, "nll/gap", "extended")
    assert gap.met and format_value(gap, interval=True) == "-0.080 nats [-0.100, -0.060], n = 48"


def test_without_it_the_gap_is_the_difference_of_the_last_quarters(run: Path) -> None:
    def change(score: Score) -> Score:
        if not score.task.startswith("nll/position/"):
            return score
        return replace(score, value=float(score.task.removeprefix("nll/position/").split("-")[0]))

    change_scores(run, change)
    drop_scores(run, "nll/gap")
    assert find(run, "nll/gap", "extended").value == 1536 - 384
    scores = read_scores(run / "scores.json")
    halves = [
        replace(scores[0], model="extended", task="nll/position/1536-1792", value=1.0, n=100),
        replace(scores[0], model="extended", task="nll/position/1792-2048", value=2.0, n=300),
    ]
    scores = [one for one in scores if one.task != "nll/position/1536-2048"]
    write_scores(run / "scores.json", scores + halves)
    assert find(run, "nll/gap", "extended").value == pytest.approx(1.75 - 384)


def train_for(run: Path, length: int) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["stages"][-1]["context_length"] = length
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def test_a_loss_beyond_the_trained_length_is_no_target(run: Path) -> None:
    """Loss by position may reach farther than a run trains, as the default of 4x does where the target is 2x."""
    change_scores(run, lambda score: replace(score, value=9.0, low=8.0, high=10.0) if at_far(score) else score)
    train_for(run, 1024)
    near, end = (get_loss(run, task) for task in ("nll/position/384-512", "nll/position/768-1024"))
    gap = find(run, "nll/gap", "extended")
    assert (gap.name, gap.value) == ("loss, last quarter of 2x minus that of 1x", pytest.approx(end - near))
    assert gap.met and not gap.aim
    train_for(run, 1280)  # no bucket ends there, so 2x, which lies below, is judged
    assert find(run, "nll/gap", "extended") == gap
    train_for(run, 768)  # a bucket ends there, and none begins at 576
    gap = find(run, "nll/gap", "extended")
    assert gap.aim and gap.value == 9 and gap.name == "loss, last quarter of 4x (never trained) minus that of 1x"
    assert "FAIL" not in format_line(run, "never trained")


def test_below_four_thirds_the_gap_is_that_of_all_beyond_the_base(run: Path) -> None:
    train_for(run, 640)
    scores = [score for score in read_scores(run / "scores.json") if not at_far(score)]
    near, end = get_loss(run, "nll/position/384-512"), get_loss(run, "nll/position/512-768")
    scores = [replace(score, task=score.task.replace("512-768", "512-640")) for score in scores]
    write_scores(run / "scores.json", scores)
    gap = find(run, "nll/gap", "extended")
    assert (gap.name, gap.value) == ("loss, last quarter of 1.25x minus that of 1x", pytest.approx(end - near))


def format_line(run: Path, words: str) -> str:
    return next(line for line in summarise(run)["text"].splitlines() if words in line and line.startswith("loss"))


def at_far(score: Score) -> bool:
    return score.task == "nll/gap"


def get_loss(run: Path, task: str) -> float:
    return next(
        each.value for each in read_scores(run / "scores.json") if (each.model, each.task) == ("extended", task)
    )


def test_buckets_that_do_not_fit_give_no_gap(run: Path) -> None:
    change_scores(run, lambda score: replace(score, task=score.task.replace("position/384-512", "position/380-512")))
    drop_scores(run, "nll/gap")
    assert "nll/gap" not in {verdict.key for verdict in judge_measures(read_run(run))}


def test_the_worst_source_and_the_mean_are_told_apart(run: Path) -> None:
    drop_scores(run, "change/")
    changes = {"short/topics": 1.05, "short/code": 1.01}

    def change(score: Score) -> Score:
        if not score.task.startswith("short/"):
            return score
        return replace(score, value=2.0 * (changes.get(score.task, 1.0) if score.model == "extended" else 1.0))

    change_scores(run, change)
    worst, mean = find(run, "short/worst", "extended"), find(run, "short/mean", "extended")
    assert "topics" in worst.name and worst.value == pytest.approx(0.05) and worst.met is False
    assert mean.value == pytest.approx(0.06 / 8) and mean.met


def test_changes_measured_in_pairs_go_first(run: Path) -> None:
    worst = find(run, "short/worst", "extended")
    assert "statutes_zh" in worst.name and worst.value == pytest.approx(0.004)
    assert (worst.low, worst.high) == (pytest.approx(0.001), pytest.approx(0.007))


def test_what_rounds_to_nothing_has_no_minus() -> None:
    verdict = Verdict("short/worst", "", "extended", "change", -0.0003, -0.007, 0.0, ("<=", 0.02))
    assert format_value(verdict, interval=True) == "+0.0 % [-0.7, +0.0]"


def test_an_infinite_interval_is_left_out() -> None:
    verdict = Verdict("nll/gap", "", "base", "nats", 0.1, float("-inf"), float("inf"), (">=", 0.2))
    assert format_value(verdict, interval=True) == "+0.100 nats" and format_bound(verdict) == "≥ 0.2 nats"
    assert verdict.to_json()["low"] is None and verdict.met is False and verdict.outcome == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "at_least", "at_most"),
    [
        (0.1, 0.3, "missed", "met"),
        (0.1, 0.6, "undecided", "undecided"),
        (0.5, 0.6, "met", "undecided"),
        (0.51, 0.6, "met", "missed"),
        (-math.inf, math.inf, "undecided", "undecided"),
        (None, None, "missed", "met"),
    ],
)
def test_an_interval_decides_or_leaves_open(low: float | None, high: float | None, at_least: str, at_most: str) -> None:
    """The value is 0.2 throughout and the bound 0.5: it would decide alike each time."""
    senses: tuple[tuple[Sense, str], ...] = ((">=", at_least), ("<=", at_most))
    for sense, outcome in senses:
        verdict = Verdict("", "", "extended", "share", 0.2, low, high, (sense, 0.5))
        assert verdict.outcome == outcome and verdict.met is (outcome == "met")


def test_a_source_of_two_documents_leaves_the_summary_open(run: Path) -> None:
    """The quickstart's licences: +0.1 % as measured, but 2 documents cannot tell it from +2 %."""

    def change(score: Score) -> Score:
        wide = score.task == "change/short/licences"
        return replace(score, value=0.001, low=-0.05, high=0.052, samples=2) if wide else score

    change_scores(run, change)
    summary = summarise(run)
    worst = find(run, "short/worst", "extended")
    assert "licences" in worst.name and worst.outcome == "undecided", "statutes_zh have more, and are sure"
    counts = [summary[f"targets_{name}"] for name in ("met", "missed", "undecided", "set")]
    assert counts == [9, 0, 1, 10] and strict_code(summary) == 4
    assert (
        "9 of 10 targets are met. Undecided, the target lies inside the 95 % interval: short-context" in summary["text"]
    )
    assert "worst source (licences), extended: +0.1 % [-5.0, +5.2], n = 2." in summary["text"]
    assert "undecided, ≤ +2 %" in summary["text"]
    assert 'class="verdict open"' in write_report(run).read_text()


def test_being_strict(run: Path) -> None:
    def code(of: Callable[[Score], Score]) -> int:
        change_scores(run, of)
        return strict_code(summarise(run))

    assert code(lambda score: score) == 0
    assert code(lambda score: replace(score, low=0.0) if score.task == "retrieval/key_value" else score) == 4
    assert code(lambda score: replace(score, high=0.5) if score.task == "retrieval/key_value" else score) == 3
    (run / "scores.json").unlink()
    assert strict_code(summarise(run)) == 4  # nothing measured is nothing proven


def test_a_run_of_several_stages_says_why_a_column_is_missing(tmp_path: Path) -> None:
    data = load_recipe(RECIPE).to_json()
    run = write_run(tmp_path / "stages", recipe=data | {"stages": [data["stages"][0]] * 2})
    assert "No zero-shot" not in summarise(run)["text"]
    scores = [score for score in read_scores(run / "scores.json") if score.model != "zero-shot"]
    write_scores(run / "scores.json", scores)
    assert "\n\nNo zero-shot: of several stages, the last" in summarise(run)["text"]
    (run / "metrics.jsonl").unlink()  # their pictures would take three seconds
    assert "No zero-shot: of several stages" in write_report(run).read_text()
    write_scores(run / "scores.json", [score for score in scores if score.model == "extended"])
    assert "No zero-shot" not in summarise(run)["text"]
