"""Contrasts are paired by seed, the Pareto front and hopeless arms are those that a person finds by hand."""

import math
from typing import Any

import pytest

from ropewalk.evaluate.compare_arms import FAR, SHORT, contrast_arms, find_hopeless, rank_arms

SHIFT = {1: 0.0, 2: 0.5, 3: -0.4}  # what a seed's documents add to every arm


def cell(
    arm: str | None, seed: int, far: float, short: float = 2.0, *, cost: float = 1.0, **rest: Any
) -> dict[str, Any]:
    scores = [
        ["nll/position/384-512", "nats", 4096, None, 9, 3.0, 2.9, 3.1],
        ["nll/position/1536-2048", "nats", 4096, None, 9, far + SHIFT[seed], 0, 9],
        ["nll/position/3072-4096", "nats", 4096, None, 9, 7.0, 0, 9],  # beyond the arm's context
        ["short/a", "nats", 512, None, 9, short, 0, 9],
        ["retrieval/key_value", "accuracy", 2048, 0.5, 9, 0.5, 0, 1],
    ]
    kind = "base" if arm is None else "trained"
    own = {"kind": kind, "arm": arm, "choices": {"length": "4x"}, "seed": seed, "context_tokens": 2048}
    return {**own, "cost_flops": cost, "scores": scores, **rest}


def make_cells(arms: dict[str, tuple[list[float], float, float]]) -> list[dict[str, Any]]:
    cells = [cell(None, seed, 3.5, 2.0) for seed in (1, 2, 3)]
    for arm, (far, short, cost) in arms.items():
        cells += [cell(arm, seed, value, short, cost=cost) for seed, value in zip((1, 2, 3), far, strict=True)]
    return cells


def test_a_contrast_is_the_mean_of_differences_within_a_seed_with_students_interval() -> None:
    cells = make_cells({"theta": ([3.0, 3.0, 3.0], 2.0, 1.0), "yarn": ([2.94, 2.93, 2.95], 2.02, 1.0)})
    (found,) = contrast_arms(cells, "theta")
    assert (found["arm"], found["minus"], found["seeds"]) == ("yarn", "theta", 3)
    table = {row[0]: row[2:] for row in found["scores"]}
    half = 4.302653 * 0.01 / math.sqrt(3)  # Student's quantile of two degrees of freedom
    assert table[FAR] == pytest.approx([-0.06, -0.06 - half, -0.06 + half], abs=1e-6)
    assert table[SHORT] == pytest.approx([0.01, 0.01, 0.01])
    assert "retrieval/key_value" not in table, "single depths are left out"
    alone = contrast_arms([each for each in cells if each["seed"] == 1], "theta")[0]["scores"][0]
    assert alone[2] == pytest.approx(-0.06) and math.isinf(alone[4])
    assert contrast_arms(cells, "another") == []


def test_the_front_has_the_arms_that_no_other_beats() -> None:
    arms = {
        "far": ([2.0] * 3, 2.2, 4.0),
        "short": ([3.0] * 3, 2.0, 4.0),
        "cheap": ([3.4] * 3, 2.2, 1.0),
        "bad": ([3.1] * 3, 2.2, 4.0),
        "twin": ([2.0] * 3, 2.2, 4.0),
    }
    found = {each.arm: each for each in rank_arms(make_cells(arms))}
    assert {arm for arm, each in found.items() if each.best} == {"far", "short", "cheap", "twin"}
    assert found["far"].short[0] == pytest.approx(0.1) and found["far"].far[0] == pytest.approx(2.0 + 0.1 / 3)


def test_without_a_base_or_losses_by_position_nothing_is_invented() -> None:
    cells = [each for each in make_cells({"a": ([2.0] * 3, 2.0, 1.0)}) if each["kind"] != "base"]
    (found,) = rank_arms(cells)
    assert math.isnan(found.short[0]) and found.best
    for each in cells:
        each["scores"] = each["scores"][-2:]
    assert math.isnan(rank_arms(cells)[0].far[0])


def test_an_arm_is_hopeless_if_another_was_better_in_each_first_seed() -> None:
    arms = {
        "good": ([2.0, 2.0, 2.0], 2.0, 1.0),
        "near": ([2.01, 2.01, 2.01], 2.0, 1.0),
        "once": ([2.5, 1.9, 2.5], 2.0, 1.0),
        "bad": ([2.5, 2.5, 2.5], 2.0, 1.0),
        "mild": ([2.5, 2.5, 2.5], 1.9, 1.0),  # worse far out, and better at the base's length
    }
    rule = {"far_nats": 0.02, "short": 0.002}
    assert find_hopeless(make_cells(arms), seeds=(1, 2), **rule) == {("bad", ("4x",)): "good"}
    assert set(find_hopeless(make_cells(arms), seeds=(1,), **rule)) == {("bad", ("4x",)), ("once", ("4x",))}


def test_what_an_arm_lacks_neither_saves_it_a_place_on_the_front_nor_condemns_it() -> None:
    """Losses at different positions differ without any arm being worse."""
    cells = make_cells({"good": ([2.0] * 3, 2.0, 1.0), "short": ([2.5] * 3, 2.0, 1.0), "blind": ([9.0] * 3, 2.0, 1.0)})
    for each in cells:
        if each["arm"] == "short":  # the last positions were not measured, so 3.0 at 512 would stand for the far loss
            each["scores"] = [row for row in each["scores"] if row[0] != "nll/position/1536-2048"]
        elif each["arm"] == "blind":
            each["scores"] = [row for row in each["scores"] if not row[0].startswith("nll")]
    assert find_hopeless(cells, seeds=(1, 2), far_nats=0.02, short=0.002) == {}
    assert {each.arm for each in rank_arms(cells) if each.best} == {"good", "blind"}
    assert math.isnan(rank_arms(cells)[2].far[0]), "an unmeasured loss is no loss of 0, which would beat all"
