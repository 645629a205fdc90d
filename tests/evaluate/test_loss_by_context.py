"""The same tokens at seven contexts: which tokens count, and when the law is told."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ropewalk.core.record import Score
from ropewalk.evaluate.context_law import fit_context_law
from ropewalk.evaluate.items import Sums
from ropewalk.evaluate.loss_by_context import LossByContext, plan_loss_by_context

CONTEXTS = [512 >> power for power in range(7)]


def make(documents: int = 6) -> LossByContext:
    # a token's value is its place, and tells its document
    return LossByContext([np.arange(512, dtype=np.int64) + 1000 * number for number in range(documents)], CONTEXTS)


def test_every_context_reads_the_same_tokens_with_three_quarters_of_it_before_them() -> None:
    planned = make(2)
    wanted = {number: {*range(1000 * number + 384, 1000 * number + 512)} for number in range(2)}
    seen: dict[int, list[int]] = {}
    for item in planned.items:
        for place in np.flatnonzero(item.group >= 0).tolist():
            context = CONTEXTS[item.group[place] // 2]
            assert len(item.tokens) == context and place >= context * 3 // 4
            seen.setdefault(int(item.group[place]), []).append(int(item.tokens[place]))
    assert len(seen) == planned.groups == 14
    for group, tokens in seen.items():
        assert len(tokens) == 128 and set(tokens) == wanted[group % 2]


def score(loss: Callable[[int], float], *, spread: float = 0.2) -> dict[str, list[Score]]:
    """The scores where each document has the loss of its context, shifted by its own difficulty."""
    planned, count = make(), np.full(42, 128.0)
    shift = np.linspace(-spread, spread, 6)
    nll = np.concatenate([(loss(tokens) + shift) * 128 for tokens in CONTEXTS])
    found: dict[str, list[Score]] = {}
    for each in planned.score(Sums(count, nll, np.zeros(42)), model="m"):
        found.setdefault(each.task, []).append(each)
    return found


def test_a_law_that_predicts_is_told_with_its_intervals() -> None:
    noise = dict(zip(CONTEXTS, np.random.default_rng(0).normal(0, 0.002, size=7), strict=True))
    found = score(lambda tokens: (20 / tokens) ** 0.6 + 1.5 + noise[tokens])
    assert [each.context_tokens for each in found["context_law/loss"]] == CONTEXTS
    first = found["context_law/loss"][0]
    assert first.low < first.value < first.high and first.n == 6 * 128 and first.samples == 6
    for name, truth, metric in (("alpha", 20, "tokens"), ("beta", 0.6, "exponent"), ("gamma", 1.5, "nats")):
        (fitted,) = found[f"context_law/{name}"]
        assert fitted.low <= truth <= fitted.high and fitted.metric == metric
    assert found["context_law/held_out_error"][0].value < 0.01


def test_a_law_that_does_not_predict_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    # beyond 256 tokens the model is lost
    found = score(lambda tokens: (20 / tokens) ** 0.6 + (1.5 if tokens <= 256 else 2.0))
    assert found.keys() == {"context_law/loss", "context_law/held_out_error"}
    assert found["context_law/held_out_error"][0].value > 0.01 and "refused" in capsys.readouterr().err


def test_the_intervals_of_the_law_hold_for_other_documents() -> None:
    """Documents differ in their level by much more than the law misses their mean."""
    draw, tries, held = np.random.default_rng(0), 16, 0
    truth = np.array([(20 / tokens) ** 0.6 + 1.5 for tokens in CONTEXTS])
    for number in range(tries):
        documents = truth[:, None] + draw.normal(0, 0.1, size=8) + draw.normal(0, 0.002, size=(7, 8))
        law = fit_context_law(CONTEXTS, documents.mean(axis=1).tolist(), documents=documents, seed=number)
        held += law.gamma[1] <= 1.5 <= law.gamma[2]
        assert law.longest[1] < law.longest[0] < law.longest[2]
    assert held >= 14, "as for the mean of eight documents"
    alone = fit_context_law(CONTEXTS, truth.tolist(), documents=truth[:, None])
    assert alone.gamma == (pytest.approx(1.5, abs=0.01), -np.inf, np.inf)


@pytest.mark.parametrize(
    ("tokens", "documents", "why"), [(64, 2, "a law needs 5 contexts"), (512, 0, "no held-out document is so long")]
)
def test_it_is_not_planned_where_it_cannot_be_fitted(
    tokens: int, documents: int, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = [np.zeros(tokens, dtype=np.int64)] * documents
    monkeypatch.setattr("ropewalk.evaluate.loss_by_context.draw_long", lambda corpus, **asked: drawn)
    asked: dict[str, Any] = {"corpus": None, "context_tokens": tokens, "documents": 2, "seed": 1}
    plan = inspect.unwrap(plan_loss_by_context)  # no corpus is needed where none is read
    assert plan(**asked, asked=True) is None and why in capsys.readouterr().err
    assert plan(**asked, asked=False) is None and not capsys.readouterr().err
