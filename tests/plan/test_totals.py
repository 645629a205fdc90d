"""Totals add up all stages and the evaluation; a sequence's time grows as S^2 / P, to thousands of ranks."""

import dataclasses

import pytest

from planned_recipe import make_planned
from ropewalk.plan import planned_machine
from ropewalk.plan.evaluation_time import estimate_evaluation
from ropewalk.plan.flops import token_flops
from ropewalk.plan.forecast import forecast, forecast_recipe
from ropewalk.plan.hardware import KNOWN, describe_cpu
from ropewalk.plan.plan import Split
from ropewalk.plan.savings import Savings
from ropewalk.plan.step_time import FITTED
from ropewalk.plan.totals import describe_next_length, total_up
from search_cases import SHAPES

LLAMA = SHAPES["8b"]
STAGES = [{"context_length": "32Ki"}, {"context_length": "128Ki", "tokens": "2B"}]
PARALLEL = {"ranks": 8, "context_parallel": 8, "precision": "bfloat16"}


def test_totals_are_all_stages_and_the_evaluation() -> None:
    recipe = make_planned(STAGES, hardware="h100-sxm x 8", parallel=PARALLEL)
    plans = forecast_recipe(recipe, LLAMA)
    found = total_up(recipe, LLAMA, plans)
    assert found.training_seconds == sum(plan.seconds for plan in plans)
    assert found.evaluation_seconds == estimate_evaluation(recipe, LLAMA, plans[-1]) > 0
    assert found.device_hours == pytest.approx(8 * (found.training_seconds + found.evaluation_seconds) / 3600)
    assert found.dollars == pytest.approx(3.0 * found.device_hours)
    assert found.preparation_core_seconds / 3600 == pytest.approx(11.5 * 3 / 20), "3B tokens"
    assert found.limits.startswith("attention backward, "), "at 128Ki attention is most of the work"
    unpriced = [dataclasses.replace(each, machine=dataclasses.replace(each.machine, dollars_per_hour=None))
                for each in plans]  # fmt: skip
    assert total_up(recipe, LLAMA, unpriced).dollars is None


def test_twice_as_many_answers_take_longer_to_evaluate() -> None:
    few, many = (
        make_planned(STAGES, hardware="h100-sxm x 8", parallel=PARALLEL, evaluate={"answers": answers})
        for answers in (1000, 4000)
    )
    plan = forecast_recipe(few, LLAMA)[-1]
    assert estimate_evaluation(many, LLAMA, plan) > 2 * estimate_evaluation(few, LLAMA, plan)


def test_the_next_length_is_planned_at_its_best() -> None:
    recipe = make_planned(STAGES[1:], hardware="h100-sxm x 8", parallel=PARALLEL)
    line = describe_next_length(recipe, LLAMA, forecast_recipe(recipe, LLAMA))
    assert line.startswith("next        256Ki takes 1.") and line.endswith("K") and "does not fit" not in line
    small = make_planned(STAGES[1:], hardware="l40s x 2", parallel={"ranks": 2, "context_parallel": 2})
    assert describe_next_length(small, SHAPES["70b"], forecast_recipe(small, SHAPES["70b"])).endswith("does not fit")


def test_a_cpu_is_not_measured_again_for_the_next_length(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_planned(parallel={"device": "cpu"})
    plans = forecast_recipe(recipe, LLAMA, machine=describe_cpu(1e11, ranks=1, source="test"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(planned_machine, "find_machine", refuse)
    assert "takes" in describe_next_length(recipe, LLAMA, plans)


@pytest.mark.parametrize("ranks", [8, 256, 4096])
def test_the_time_of_a_sequence_is_its_closed_form(ranks: int) -> None:
    """Products grow with S / P, attention with S^2 / P; the plan of one sequence over all ranks is their sum."""
    machine, k = KNOWN["h100-sxm"], 1 << 10
    for length in (512 * k, 4096 * k):
        plan = forecast(
            LLAMA, context_tokens=length, tokens=length, ranks=ranks, machine=machine,
            split=Split(context_ranks=ranks, exchange="ring", savings=(Savings("full", None),)),
        )  # fmt: skip
        pairs = length * (length + 1) / 2
        attention = 4 * LLAMA.query_width * LLAMA.layers * pairs / ranks
        backward = 2.5 * attention / machine.attention_backward_flops
        seconds = FITTED.attention * (2 * attention / machine.attention_forward_flops + backward)
        planned = plan.times.attention_forward + plan.times.attention_backward
        assert planned == pytest.approx(seconds, rel=0.01), "long documents reach their kernels' whole rate"
        linear = 4 * token_flops(LLAMA, length).linear * length / ranks / machine.matmul_flops
        assert plan.times.products == pytest.approx(FITTED.products["hopper"] * linear)
