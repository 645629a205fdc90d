"""Context gain: equal tokens in both readings, enough context in each window, and no gain where nothing far is seen."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ropewalk.core.record import Score
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.evaluate.gain_by_distance import GainByDistance, plan_gain_by_distance
from ropewalk.evaluate.items import Sums, measure
from ropewalk.model.extend import extend
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import open_model
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Unchanged

BASE = 64


def read(plan: GainByDistance, seen_tokens: int, benefit: float = 0.001) -> dict[str, Score]:
    """The scores of an invented model: a loss falls by ``benefit`` per token of context, up to ``seen_tokens``."""
    sums = Sums(*(np.zeros(plan.groups) for _ in range(3)))
    for item in plan.items:
        counted = item.group >= 0
        context = np.arange(len(item.tokens))[counted]
        np.add.at(sums.count, item.group[counted], 1)
        np.add.at(sums.nll, item.group[counted], 3 - benefit * np.minimum(context, seen_tokens))
    return {score.task: score for score in plan.score(sums, model="m")}


@pytest.fixture
def plan(corpus: Corpus) -> GainByDistance:
    found = plan_gain_by_distance(corpus, base_tokens=BASE, multiple=4, documents=12, seed=3)
    assert found is not None
    return found


def test_every_window_has_the_context_of_the_base(plan: GainByDistance) -> None:
    assert plan.window_tokens * 3 // 4 >= BASE and plan.borders == [88, 128, 192, 256]
    whole, *windows = plan.items[: len(plan.items) // len(plan.documents)]
    assert len(whole.tokens) == 256 and (np.flatnonzero(whole.group >= 0) >= 88).all()
    assert all(np.flatnonzero(window.group >= 0).min() >= BASE for window in windows)
    tokens = 256 - 88  # a group each
    for first, end in pairwise(plan.borders):
        groups = [range(reading * tokens + first - 88, reading * tokens + end - 88) for reading in (0, 1)]
        counts = [int(sum(np.isin(item.group, mine).sum() for item in plan.items)) for mine in groups]
        assert counts == [end - first] * 2


def test_a_model_that_sees_no_farther_than_the_base_has_no_gain(plan: GainByDistance) -> None:
    for task, score in read(plan, BASE).items():
        assert score.value == pytest.approx(0, abs=1e-12), task
    seen = read(plan, 4 * BASE)
    assert seen["gain/context"].high < -0.03
    assert seen["gain/position/192-256"].value < seen["gain/position/128-192"].value < 0
    assert {task.partition("/source/")[2] for task in seen if "/source/" in task} == {"prose"}


def test_a_real_model_with_a_window_in_its_only_layer_has_no_gain(
    models: dict[str, Path], plan: GainByDistance, tmp_path: Path
) -> None:
    window = (LayerRule.model_validate({"window": BASE // 2}),)  # two layers see twice as far as one
    extend(models["base"], tmp_path / "blind", rope=Unchanged(), layers=window, context_tokens=4 * BASE)
    found = []
    for folder in (tmp_path / "blind", models["base"]):
        sums = measure(open_model(ModelWithLoss, folder, dtype="float32"), plan.items, plan.groups, name="gain")
        found.append({score.task: score for score in plan.score(sums, model="m")}["gain/context"])
    assert abs(found[0].value) < 1e-6 and found[0].low > -0.001, "the target is at most -0.001 nats"
    assert abs(found[1].value) > 1e-4


def test_there_is_nothing_far_at_the_length_of_the_base(corpus: Corpus) -> None:
    assert plan_gain_by_distance(corpus, base_tokens=BASE, multiple=1, documents=12, seed=3) is None
    assert plan_gain_by_distance(corpus, base_tokens=BASE, multiple=1000, documents=12, seed=3) is None


def test_key_tokens_are_those_that_far_context_explains() -> None:
    plan = GainByDistance([("a", np.arange(96)), ("b", np.arange(96))], base_tokens=24, multiple=4)
    random = np.random.default_rng(0)
    tokens = 96 - plan.window_tokens
    window = random.uniform(2.5, 6, size=(2, tokens))
    base, trained = window.copy(), window.copy()
    trained[:, 5::7] = 0.25  # 2.25 nats below the window at least
    trained[:, 6::7] = 2.1  # not below 2
    trained[:, 4::7] = window[:, 4::7] - 1.9

    def sums(whole: np.ndarray) -> Sums:
        nll = np.stack((whole, window), axis=1).reshape(-1)
        return Sums(np.ones(len(nll)), nll, np.zeros(len(nll)))

    found = {"base": sums(base), "trained": sums(trained)}
    assert plan.groups == 2 * 2 * tokens
    first, second = plan.score_key_tokens(found)
    keys = len(range(5, tokens, 7))
    assert (first.task, first.model, first.n, second.n) == ("long_ppl", "base", 2 * keys, 2 * keys)
    assert second.value == pytest.approx(np.exp(0.25))
    assert first.value == pytest.approx(np.exp(base[:, 5::7].mean()))
    one = {score.task: score for score in plan.score(found["trained"], model="m")}
    assert one["gain/context"].value == pytest.approx((trained - window).mean())
    begin, end = plan.borders[1] - plan.borders[0], plan.borders[2] - plan.borders[0]
    bucket = one[f"gain/position/{plan.borders[1]}-{plan.borders[2]}"]
    assert bucket.value == pytest.approx((trained - window)[:, begin:end].mean())
