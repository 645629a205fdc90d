"""Key-value prompts: exact in words, answered by a dictionary that knows nothing of how they were made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.probe.key_value import KeyValue, make_key_value_prompt
from ropewalk.probe.prompt import fit_prompt
from ropewalk.probe.vocabulary import VOCABULARIES

VALUES = VOCABULARIES["en"].values
GOLDEN = (
    " from needle white some was after between she river ruby while guitar tan between from and before"
    " recall needle white river ruby guitar tan"
)
SPECS = [
    KeyValue(),
    KeyValue(language="zh"),
    KeyValue(pairs=(4, 12), distinct_values=False),
    KeyValue(pairs=(5, 9), questions=2, keys=20, values=12, filler=10),
    KeyValue(pairs=(3, 12), hops=2),
    KeyValue(pairs=(2, 4), hops=3, questions=2, language="zh"),
]


def solve(text: str, spec: KeyValue) -> list[str]:
    """Where each asked key leads in the context, hop by hop: read as words, with no help from spans."""
    words = text.split()
    recall = words.index(VOCABULARIES[spec.language].recall)
    keys = set(VOCABULARIES[spec.language].keys)
    memory: dict[str, str] = {}
    place = 0
    while place < recall:
        if words[place] in keys:  # a fact is two words, and the second one may be a key as well
            memory[words[place]] = words[place + 1]
            place += 1
        place += 1
    answers = words[recall + 1 :: 2]
    for _ in range(spec.hops):
        answers = [memory[word] for word in answers]
    return answers


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_kinds_of_words_are_disjoint_and_many(language: str) -> None:
    words = VOCABULARIES[language]
    everything = [*words.keys, *words.values, *words.filler, words.recall, words.most]
    assert len(set(everything)) == len(everything)
    assert len(words.keys) >= 40 and len(words.values) >= 40 and len(words.filler) >= 60
    assert not any(" " in word for word in everything)


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=30, deadline=None)
@given(words=st.integers(48, 600), seed=st.integers(0, 10**6))
def test_answers_stand_at_their_spans_and_follow_from_the_text(spec: KeyValue, words: int, seed: int) -> None:
    prompt = make_key_value_prompt(spec, stream("test", seed), words=words)
    assert len(prompt.text.split()) == words and prompt.text.count(" ") == words
    assert [answer.strip() for answer in prompt.answer_texts] == solve(prompt.text, spec)
    assert all(answer.startswith(" ") and not answer[1:].startswith(" ") for answer in prompt.answer_texts)
    assert prompt.answers[-1][1] == len(prompt.text)
    least, most = spec.pairs
    assert (spec.questions or least) <= len(prompt.answers) <= (spec.questions or most)


def test_depth_is_the_share_of_the_context_before_the_pair() -> None:
    prompt = make_key_value_prompt(KeyValue(), stream("test"), words=300)
    context = prompt.text[: prompt.text.index(" recall ")]
    words = prompt.text[len(context) :].split()[1:]
    for key, depth in zip(words[::2], prompt.depths, strict=True):
        assert depth == pytest.approx(context.index(f" {key} ") / len(context))


def test_more_hops_lead_through_other_keys_from_the_earliest_fact_on() -> None:
    spec = KeyValue(pairs=(6, 6), hops=2)
    orders = set()
    for number in range(20):
        prompt = make_key_value_prompt(spec, stream("hops", number), words=300)
        context, _, asked = prompt.text.partition(" recall ")
        words = context.split()
        for key, depth in zip(asked.split()[::2], prompt.depths, strict=True):
            assert words.count(key) == 1  # nothing leads to the key that is asked
            second = words[words.index(key) + 1]
            assert words.count(second) == 2
            places = context.index(f" {key} {second} "), max(f"{context} ".find(f" {second} {v} ") for v in VALUES)
            assert depth == pytest.approx(min(places) / len(context))
            orders.add(places[0] < places[1])
    assert orders == {True, False}  # the chain is not always written in the order in which it is followed


def test_a_prompt_of_one_hop_is_what_it_was_before_there_were_more() -> None:
    prompt = make_key_value_prompt(KeyValue(pairs=(3, 3)), stream("test", 5), words=24)
    assert prompt.text == GOLDEN


def test_depths_cover_the_context_evenly() -> None:
    depths = [
        depth for i in range(300) for depth in make_key_value_prompt(KeyValue(), stream("test", i), words=200).depths
    ]
    counts, _ = np.histogram(depths, bins=5, range=(0, 1))
    assert counts.min() > 0.8 * len(depths) / 5


def test_same_seed_same_text() -> None:
    first, second, other = (make_key_value_prompt(KeyValue(), stream("test", i), words=64) for i in (1, 1, 2))
    assert first == second and first != other


def test_a_short_prompt_holds_the_pairs_that_fit() -> None:
    assert len(make_key_value_prompt(KeyValue(), stream("test"), words=16).answers) == 3
    with pytest.raises(UserError, match="13 or more"):
        make_key_value_prompt(KeyValue(), stream("test"), words=12)
    with pytest.raises(UserError, match="19 or more"):
        make_key_value_prompt(KeyValue(hops=2), stream("test"), words=18)
    assert len(make_key_value_prompt(KeyValue(hops=2), stream("test"), words=19).answers) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"pairs": (5, 3)},
        {"pairs": (3, 41)},
        {"questions": 4},
        {"filler": 500},
        {"hops": 0},
        {"pairs": (3, 21), "hops": 2},
    ],
)
def test_what_the_vocabulary_cannot_do_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        KeyValue(**wrong)


def test_a_prompt_grows_into_its_budget() -> None:
    def count(text: str) -> int:
        return len(text.split()) + 2

    prompt = fit_prompt(
        lambda words: make_key_value_prompt(KeyValue(), stream("t"), words=words), count, 512, smallest_words=16
    )
    assert count(prompt.text) == 512
    with pytest.raises(UserError, match="the context 10"):
        fit_prompt(
            lambda words: make_key_value_prompt(KeyValue(), stream("t"), words=words), count, 10, smallest_words=16
        )
