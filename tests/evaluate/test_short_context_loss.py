"""Short-context loss: whose text, how much of it, and a change that is paired."""

from collections import Counter

import numpy as np
import pytest

from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.evaluate.items import Sums
from ropewalk.evaluate.loss_by_source import LossBySource
from ropewalk.evaluate.short_context_loss import plan_short_loss


def pieces(plan: LossBySource) -> list[tuple[int, int]]:
    """(document, tokens) of each item."""
    return [(int(item.group[0]), len(item.tokens)) for item in plan.items]


def test_text_is_cut_at_the_base_context_and_prompts_are_left_out(corpus: Corpus) -> None:
    plan = plan_short_loss(corpus, base_tokens=64, tokens=2000, seed=1)
    assert plan is not None and list(plan.sources) == ["prose", "han"]
    assert plan.languages == {"prose": "en", "han": "zh"}
    assert all(1 < tokens <= 64 for _, tokens in pieces(plan))
    first, end = plan.sources["prose"]
    assert first == 0 and plan.sources["han"][0] == end
    amount = sum(tokens for document, tokens in pieces(plan) if document < end)
    assert 2000 <= amount < 2064


def test_first_pieces_of_all_documents_come_first(corpus: Corpus) -> None:
    plan = plan_short_loss(corpus, base_tokens=64, tokens=10**9, seed=1)
    assert plan is not None
    prose = [document for document, _ in pieces(plan) if document < plan.sources["prose"][1]]
    assert max(Counter(prose[: len(set(prose))]).values()) == 1 < max(Counter(prose).values())
    held_out = corpus.facts("prose").held_out_tokens
    assert sum(tokens for document, tokens in pieces(plan) if document in set(prose)) == pytest.approx(
        held_out, abs=len(set(prose))
    )


def test_changes_are_relative_and_paired(corpus: Corpus) -> None:
    plan = plan_short_loss(corpus, base_tokens=64, tokens=2000, seed=1)
    assert plan is not None
    random = np.random.default_rng(0)
    count = random.integers(20, 60, size=plan.groups).astype(float)
    nll = count * random.uniform(1, 5, size=plan.groups)
    zeros = np.zeros(plan.groups)
    before, after = Sums(count, nll, zeros), Sums(count, nll * 1.02, zeros)
    first, end = plan.sources["han"]
    loss = {score.task: score for score in plan.score(after, model="m")}["short/han"]
    assert loss.value == pytest.approx(1.02 * nll[first:end].sum() / count[first:end].sum())
    change = {score.task: score for score in plan.score_change(before, after, model="m")}["change/short/han"]
    assert (change.value, change.low, change.high) == pytest.approx((0.02, 0.02, 0.02))
    assert loss.high - loss.low > 0.1 and change.n == loss.n == int(count[first:end].sum())
