"""The plan of a probe: the times come back from two readings, and every plan fits its budget and is the largest one."""

import itertools

import pytest

from ropewalk.commands.probe_budget import BudgetClock, ReadingTime, fit_time, plan_probe
from ropewalk.core.error import UserError

NAMES = ["unchanged", "theta 1e6", "yarn", "ntk", "linear"]
ROUNDS = [[64, 32, 64]] * 3 + [[64]] * 5
TIME = ReadingTime(per_token=0.01, per_pair=0.001)


def slow_cost(names: int, rounds: int, ranks: int) -> float:
    each = [0.01 * n + 0.001 * n * n for texts in ROUNDS[:rounds] for n in texts]
    return names * (2.0 + max(sum(each) / ranks, *each))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_plan_is_the_largest_that_fits(ranks: int) -> None:
    """Against a search of all plans: all candidates before more rounds, but two rounds before all candidates."""
    for budget in (17, 20, 30, 50, 80, 130, 200, 1000):
        cases = itertools.product(range(2, 6), range(1, 9))
        fitting = [(names, rounds) for names, rounds in cases if slow_cost(names, rounds, ranks) <= budget]
        if not fitting:
            with pytest.raises(UserError, match="too small for a probe"):
                plan_probe(NAMES, ROUNDS, TIME, start=2.0, ranks=ranks, budget=budget)
            continue
        best = max(fitting, key=lambda case: (case[1] >= 2, case[0], case[1] if case[0] == 5 else -case[1]))
        plan = plan_probe(NAMES, ROUNDS, TIME, start=2.0, ranks=ranks, budget=budget)
        assert (len(plan.names), plan.rounds) == best and plan.seconds <= budget
        assert [*plan.names, *plan.left_out] == NAMES
        assert plan.seconds == pytest.approx(slow_cost(*best, ranks))


def test_two_readings_give_both_parts_of_the_time() -> None:
    time = ReadingTime(per_token=0.002, per_pair=3e-6)
    found = fit_time((256, time.seconds(256)), (1024, time.seconds(1024)))
    assert found.per_token == pytest.approx(0.002) and found.per_pair == pytest.approx(3e-6)
    assert fit_time((256, 1.0), (1024, 2.0)) == ReadingTime(2.0 / 1024, 0.0), "a noisy short reading adds no negative"
    assert fit_time((256, 0.01), (1024, 2.0)) == ReadingTime(0.0, 2.0 / 1024**2)


def test_a_slow_probe_stops_between_candidates_but_not_before_two() -> None:
    clock = BudgetClock(budget=10.0)
    for seconds, fits in ((40.0, True), (40.0, True), (0.0, False)):
        assert clock.fits(planned=True) is fits
        clock.taken.append(seconds)


def test_what_was_left_out_is_read_where_the_others_were_fast() -> None:
    clock = BudgetClock(budget=10.0, taken=[2.0, 3.0, 2.0])
    assert clock.fits(planned=False)
    clock.taken.append(2.0)
    assert not clock.fits(planned=False) and clock.fits(planned=True), "the margin is for what was planned"
