"""Laws on synthetic losses with noise: the right law is recovered and predicts, a wrong one is refused."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ropewalk.core.error import UserError
from ropewalk.evaluate.context_law import fit_context_law
from ropewalk.evaluate.mix_law import MixLaw, fit_mix_law, hold_out_cells, read_law
from ropewalk.evaluate.study_fit import KINDS, find_critical, fit_study, is_accepted, is_ratio_study

CONTEXTS = [64, 128, 256, 512, 1024, 2048, 4096]
SHARES, BUDGETS = [0.1, 0.3, 0.5, 0.7, 0.9], [1e6, 2e6, 4e6, 8e6]


def truth(share: float, tokens: float) -> float:
    """D-CPT's form, written anew: with more tokens a larger share helps more, and a small share costs."""
    return 1.8 + 0.9 * share**0.8 / (tokens / 1e6) ** 0.3 + 0.15 / (share + 0.1) ** 0.9


def forget(share: float, tokens: float) -> float:
    """The loss of text whose share falls: it rises, and with more tokens it rises further."""
    return 2.2 + 0.1 / (share + 0.1) ** 0.9 - 0.3 * share**0.4 / (tokens / 1e6) ** 0.3


def fit(law: Callable[[float, float], float], *, noise: float = 0.0, seed: int = 0) -> MixLaw:
    points = [(share, tokens) for share in SHARES for tokens in BUDGETS]
    drawn = np.random.default_rng(seed).normal(size=len(points))
    losses = [law(*point) * (1 + noise * each) for point, each in zip(points, drawn, strict=True)]
    return fit_mix_law([share for share, _ in points], [tokens for _, tokens in points], losses)


def test_the_right_law_is_accepted_and_predicts_between_what_was_measured() -> None:
    law = fit(truth, noise=0.001)
    assert law.held_out.is_accepted and law.held_out.points == 8 and law.shares == (0.1, 0.9)
    for share, tokens in ((0.2, 3e6), (0.4, 6e6), (0.8, 8e6)):
        value, low, high = law.predict(share, tokens)
        assert value == pytest.approx(truth(share, tokens), rel=4e-3)
        assert low - 0.002 <= truth(share, tokens) <= high + 0.002 and 0 < high - low < 0.03
        _, least, most = law.predict(share, tokens, noise=True)
        assert most - least > high - low, "one new run varies more than the law"
    again = read_law(json.loads(json.dumps(law.to_json())))
    assert again.predict(0.4, 6e6) == law.predict(0.4, 6e6) and again.held_out == law.held_out


@pytest.mark.parametrize(
    ("law", "noise"),
    [
        (lambda share, tokens: 2.0, 0.02),  # noise alone
        (lambda share, tokens: 2.0 + 0.3 * math.sin(9 * share), 0.0),  # a wave over the shares
        (lambda share, tokens: truth(share, tokens) + (0.2 if tokens > 7e6 else 0.0), 0.0),  # a turn at the last budget
    ],
    ids=["noise", "wave", "turn"],
)
def test_a_law_that_does_not_predict_is_refused(law: Callable[[float, float], float], noise: float) -> None:
    assert not fit(law, noise=noise).held_out.is_accepted


def test_forgetting_that_grows_with_the_tokens_is_within_the_law() -> None:
    law = fit(forget)
    assert law.held_out.is_accepted and law.predict(0.5, 8e6)[0] > law.predict(0.5, 1e6)[0]


def test_the_largest_budget_and_the_middle_share_are_held_out() -> None:
    shares, tokens = (np.array(values) for values in zip(*[(s, t) for s in SHARES for t in BUDGETS], strict=True))
    held = hold_out_cells(shares, tokens)
    assert set(zip(shares[held], tokens[held], strict=True)) == {
        *((share, 8e6) for share in SHARES),
        *((0.5, budget) for budget in BUDGETS),
    }
    with pytest.raises(UserError, match="too few points"):
        fit_mix_law([0.1, 0.2, 0.3, 0.4], [1.0] * 4, [2.0] * 4)


def test_the_law_of_contexts_is_recovered_and_a_wrong_curve_refused() -> None:
    drawn = np.random.default_rng(3).normal(size=7)
    law = fit_context_law(CONTEXTS, [(40 / c) ** 0.5 + 2 + 0.001 * z for c, z in zip(CONTEXTS, drawn, strict=True)])
    assert law.held_out.is_accepted and "accepted" in law.text
    for found, true in ((law.alpha, 40), (law.beta, 0.5), (law.gamma, 2.0)):
        assert found[0] == pytest.approx(true, rel=0.05) and found[1] <= found[0] <= found[2]
    assert not fit_context_law(CONTEXTS, [2 - 0.3 * math.sin(c / 700) for c in CONTEXTS]).held_out.is_accepted
    assert not fit_context_law(CONTEXTS, [2 + 0.001 * z for z in drawn]).held_out.is_accepted, "no gain, no law"
    with pytest.raises(UserError, match="too few contexts"):
        fit_context_law([1, 2, 4, 8], [1.0] * 4)


def make_results(*, noise: float = 0.0) -> dict[str, Any]:
    """A study of six shares, four budgets and two seeds; a seed's documents shift every loss, the base's too."""
    roles = {"news": "general", "law": "domain", "prompts": "instruction"}
    cells: list[dict[str, Any]] = []
    drawn = np.random.default_rng(1)

    def add(
        kind: str, arm: str | None, budget: float, seed: int, shares: dict[str, float], losses: list[float]
    ) -> None:
        rows = [
            [f"short/{name}", "nats", 512, None, 9, loss + 0.3 * seed, 0, 9]
            for name, loss in zip(roles, losses, strict=True)
        ]
        own = {"kind": kind, "arm": arm, "choices": {"budget": f"{budget:.0f}"}, "seed": seed, "tokens": budget}
        cells.append({**own, "shares": shares, "scores": rows})

    for seed in (1, 2):
        for budget in BUDGETS:
            add("base", None, budget, seed, {}, [2.4, 3.0, 3.0])
            for domain in (0.0, 0.1, 0.2, 0.4, 0.6, 0.9):
                general = 0.9 - domain
                losses = [
                    forget(general, budget),
                    2.0 + 0.4 / (domain + 0.1) ** 0.5 + 0.2 * (domain / (budget / 1e6)) ** 0.5,
                    3.0,
                ]
                losses = [loss * (1 + noise * drawn.normal()) for loss in losses]
                shares = {"general": general, "domain": domain, "instruction": 0.1}
                add("trained", f"{domain}", budget, seed, shares, losses)
    return {"cells": cells, "roles": roles, "model": "tiny-base"}


def test_a_study_gives_the_critical_share_with_an_interval() -> None:
    results = make_results(noise=0.0005)
    assert is_ratio_study(results) and not is_ratio_study({"cells": results["cells"][:20]})
    found = fit_study(results)
    assert is_accepted(found) and found.instruction == pytest.approx(0.1) and set(found.laws) == set(KINDS)
    assert found.base["general"] == pytest.approx(2.4 + 0.45), "the mean over seeds"
    limit = forget(0.9 - 0.7, 8e6) + 0.45
    critical = find_critical(found, limit=limit, tokens=8e6)
    assert critical.share is not None and critical.is_limited
    value, low, high = critical.share
    assert value == pytest.approx(0.7, abs=0.02) and low <= value <= high and high - low < 0.1
    assert find_critical(found, limit=1.0, tokens=8e6).share is None
    wide = find_critical(found, limit=9.0, tokens=8e6)
    assert not wide.is_limited and wide.share == pytest.approx((0.9, 0.9, 0.9))
