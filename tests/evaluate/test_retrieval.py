"""Prompts as tokens: lengths, answers, depths; and what counts as a right answer."""

import numpy as np
import pytest

from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Sums
from ropewalk.evaluate.retrieval import Retrieval, plan_retrieval
from ropewalk.probe.key_value import KeyValue
from ropewalk.probe.kinds import Probe
from ropewalk.probe.needle import Needle
from ropewalk.probe.ruler import CommonWords, VariableTracking


def plan(probe: Probe, tokenizer: Tokenizer, *, lengths: list[int], answers: int = 60, seed: int = 1) -> Retrieval:
    found = plan_retrieval(probe, tokenizer, lengths=lengths, answers=answers, depths=5, seed=seed)
    assert found is not None
    return found


@pytest.mark.parametrize("probe", [KeyValue(), VariableTracking(), Needle(), Needle(language="zh")], ids=str)
def test_prompts_fill_their_length_and_hold_all_answers(probe: Probe, tokenizer: Tokenizer) -> None:
    found = plan(probe, tokenizer, lengths=[600, 900])
    assert tokenizer.bos_id is not None and all(item.tokens[0] == tokenizer.bos_id for item in found.items)
    lengths = np.array([len(item.tokens) for item in found.items])
    asked = np.array([found.context_tokens[item.group.max()] for item in found.items])
    fill = lengths / asked
    assert fill.max() <= 1 and fill.min() > 0.85 and fill.mean() > 0.95
    groups = np.concatenate([np.unique(item.group[item.group >= 0]) for item in found.items])
    assert groups.tolist() == list(range(found.groups))
    for tokens in (600, 900):
        assert 60 <= (found.context_tokens == tokens).sum() < 70


def test_a_key_value_prompt_is_exactly_as_long_as_asked(tokenizer: Tokenizer) -> None:
    found = plan(KeyValue(), tokenizer, lengths=[64, 256])
    assert {len(item.tokens) for item in found.items} == {64, 256}


def test_what_is_asked_is_the_answer_at_its_depth(tokenizer: Tokenizer) -> None:
    """Read back from the tokens alone: the asked word is the one that follows its key in the context."""
    found = plan(KeyValue(), tokenizer, lengths=[256])
    for item in found.items:
        words = [tokenizer.decode([token]) for token in item.tokens[1:].tolist()]
        recall = words.index(" recall")
        for place in np.flatnonzero(item.group >= 0):
            key, value = words[place - 2], words[place - 1]  # words begin after the BOS
            first = words.index(key)
            assert first < recall and words[first + 1] == value
            assert found.depth[item.group[place]] == pytest.approx(first / recall, abs=0.05)


def test_probes_that_differ_in_language_or_hops_have_scores_of_their_own_name(tokenizer: Tokenizer) -> None:
    probes = KeyValue(), KeyValue(hops=2, pairs=(2, 3)), KeyValue(language="zh"), VariableTracking()
    names = [plan(probe, tokenizer, lengths=[256], answers=4).name for probe in probes]
    wanted = ["key_value", "key_value_2_hops", "key_value_zh", "variable_tracking"]
    assert names == [f"retrieval/{name}" for name in wanted]


def test_prompts_depend_on_seed_and_length_alone(tokenizer: Tokenizer) -> None:
    one, two = plan(KeyValue(), tokenizer, lengths=[64, 128]), plan(KeyValue(), tokenizer, lengths=[128])
    later = [item.tokens.tolist() for item in one.items if len(item.tokens) == 128]
    assert later == [item.tokens.tolist() for item in two.items]
    other = plan(KeyValue(), tokenizer, lengths=[128], seed=2)
    assert not {tuple(tokens) for tokens in later} & {tuple(item.tokens.tolist()) for item in other.items}


def test_an_answer_is_right_if_all_of_its_tokens_are(tokenizer: Tokenizer) -> None:
    found = plan(Needle(digits=7), tokenizer, lengths=[300, 500])
    count = np.bincount(
        np.concatenate([item.group[item.group >= 0] for item in found.items]), minlength=found.groups
    ).astype(float)
    assert count.min() > 1
    correct = count.copy()
    correct[::4] -= 1  # one digit of every fourth answer is wrong
    scored = list(found.score(Sums(count, count, correct), model="m"))
    scores = [score for score in scored if score.metric == "accuracy"]
    right = np.arange(found.groups) % 4 != 0
    for tokens in (300, 500):
        here = found.context_tokens == tokens
        whole = next(score for score in scores if score.context_tokens == tokens and score.depth is None)
        assert (whole.task, whole.metric, whole.n) == ("retrieval/needle", "accuracy", here.sum())
        assert whole.value == pytest.approx(right[here].mean()) and whole.low < whole.value < whole.high
        cells = [score for score in scores if score.context_tokens == tokens and score.depth is not None]
        assert [score.depth for score in cells] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
        assert sum(score.n for score in cells) == whole.n
        assert sum(score.n * score.value for score in cells) == pytest.approx(right[here].sum())


def test_a_length_that_is_too_short_is_left_out(tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(KeyValue(), tokenizer, lengths=[12, 64])
    assert set(found.context_tokens.tolist()) == {64}
    assert "not measured at 12 tokens" in capsys.readouterr().err
    assert plan_retrieval(CommonWords(), tokenizer, lengths=[64], answers=5, depths=5, seed=1) is None


def test_languages_have_tasks_of_their_own(tokenizer: Tokenizer) -> None:
    assert plan(Needle(language="zh"), tokenizer, lengths=[300]).task == "retrieval/needle_zh"


def test_the_first_prompts_are_a_measurement_of_their_own(tokenizer: Tokenizer) -> None:
    """Fewer texts, the same ones; each answer keeps its length and depth under a new number."""
    whole = plan(KeyValue(), tokenizer, lengths=[64, 128], answers=30)
    part = whole.first(2)
    assert [len(texts) for texts in part.by_length] == [2, 2] and part.groups < whole.groups
    assert sorted(number for item in part.items for number in set(item.group[item.group >= 0])) == [*range(part.groups)]
    for its, item in zip((text for texts in whole.by_length for text in texts[:2]), part.items, strict=True):
        assert np.array_equal(its.tokens, item.tokens)
        asked = item.group >= 0
        assert np.array_equal(its.group >= 0, asked)
        assert np.array_equal(whole.depth[its.group[asked]], part.depth[item.group[asked]])
        assert np.array_equal(whole.context_tokens[its.group[asked]], part.context_tokens[item.group[asked]])
    assert whole.first(1000).groups == whole.groups


def test_a_probe_at_0_percent_still_tells_two_models_apart(tokenizer: Tokenizer) -> None:
    """The loss of the answers, with prompts as samples; one number per length and per depth, beside each accuracy."""
    found = plan(KeyValue(pairs=(4, 4)), tokenizer, lengths=[64, 128])
    count, none = np.ones(found.groups), np.zeros(found.groups)
    nll = np.linspace(1, 2, found.groups)
    base, trained = (list(found.score(Sums(count, values, none), model="m")) for values in (nll, nll / 2))
    losses = [[score for score in scores if score.task == "answer_loss/key_value"] for scores in (base, trained)]
    assert all(score.metric == "nats" for score in losses[0]) and len(losses[0]) == len(base) / 2
    for one, two in zip(*losses, strict=True):
        assert two.value == pytest.approx(one.value / 2) and one.low < one.value < one.high
    whole = losses[0][0]
    here = found.context_tokens == 64
    assert whole.value == pytest.approx(nll[here].mean()) and whole.samples == here.sum() // 4 and whole.n == here.sum()


def test_the_design_effect_says_how_many_answers_are_worth_one(tokenizer: Tokenizer) -> None:
    found = plan(KeyValue(pairs=(4, 4)), tokenizer, lengths=[64])
    count = np.ones(found.groups)
    together = (np.arange(found.groups) // 4 % 2).astype(float)  # answers of one prompt are right together
    apart = (np.arange(found.groups) % 4 == 0).astype(float)
    effects = [
        next(iter(found.score(Sums(count, count, right), model="m"))).design_effect for right in (together, apart)
    ]
    assert effects[0] == pytest.approx(4, rel=0.1) and effects[1] == 1
