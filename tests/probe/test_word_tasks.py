"""Word tasks: a solver that reads the text alone finds every answer, and lengths, refusals and sources are as asked."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.corpus.embedded import embedded_documents
from ropewalk.probe.kinds import make_prompt, name_probe
from ropewalk.probe.vocabulary import VOCABULARIES
from ropewalk.probe.word_tasks import WordTask

SPECS = [
    WordTask(task="overwritten", keys=(2, 12)),
    WordTask(task="frequent", keys=(1, 12), facts=(3, 5), language="zh"),
    WordTask(task="labels", keys=(2, 16), facts=(1, 3)),
    WordTask(task="copy", keys=(2, 6), facts=(3, 6)),
    WordTask(task="copy", keys=(1, 3), facts=(1, 4), language="zh"),
]


def solve(text: str, spec: WordTask) -> tuple[list[str], list[int]]:
    """The answers of all questions, and the word at which the first needed fact of each begins."""
    words, known = text.split(), VOCABULARIES[spec.language]
    end = words.index(known.recall)
    context, questions = words[:end], words[end + 1 :]
    values = set(known.values)
    facts: dict[str, list[tuple[str, int]]] = defaultdict(list)
    wide = 2 if spec.task == "labels" else 1
    for place in range(end - wide):
        key, value = " ".join(context[place : place + wide]), context[place + wide]
        if context[place] in known.keys and value in values:
            while spec.task == "copy" and place + wide + 1 + value.count(" ") < end:
                after = context[place + wide + 1 + value.count(" ")]
                if after not in values:
                    break
                value += f" {after}"
            facts[key].append((value, place))
    answers, places = [], []
    while questions:
        skipped = 1 if spec.task == "frequent" else 0
        key = " ".join(questions[skipped : skipped + wide])
        if spec.task == "frequent":
            answer, count = Counter(value for value, _ in facts[key]).most_common(1)[0]
            assert questions[0] == known.most and 2 * count > len(facts[key])
        else:
            assert spec.task == "overwritten" or len({value for value, _ in facts[key]}) == 1
            answer = facts[key][-1][0]
        answers.append(answer)
        wanted = [place for value, place in facts[key] if value == answer]
        places.append(wanted[-1] if spec.task == "overwritten" else wanted[0])
        questions = questions[skipped + wide + len(answer.split()) :]
    return answers, places


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.task}-{spec.language}")
@settings(max_examples=25, deadline=None)
@given(words=st.integers(24, 700), seed=st.integers(0, 10**6))
def test_the_answers_follow_from_the_text(spec: WordTask, words: int, seed: int) -> None:
    prompt = make_prompt(spec, stream("word", seed), words=words)
    answers, places = solve(prompt.text, spec)
    assert [answer.removeprefix(" ") for answer in prompt.answer_texts] == answers
    assert all(answer.startswith(" ") for answer in prompt.answer_texts)
    used = prompt.text.split()
    assert words - 2 <= len(used) <= words  # labels take three words each
    context = used[: used.index(VOCABULARIES[spec.language].recall)]
    whole = len("".join(f" {word}" for word in context))
    assert prompt.depths == tuple(len("".join(f" {word}" for word in context[:place])) / whole for place in places)
    assert prompt == make_prompt(spec, stream("word", seed), words=words)


def test_keys_are_left_out_until_they_fit_and_a_shorter_prompt_is_refused() -> None:
    spec = WordTask(task="overwritten", keys=(2, 30), facts=(2, 4))
    assert len(make_prompt(spec, stream("short"), words=13).answers) == 2
    assert len(make_prompt(spec, stream("long"), words=600).answers) > 2
    with pytest.raises(UserError, match="word_task overwritten prompt of 12 words is too short"):
        make_prompt(spec, stream("short"), words=12)


def test_the_last_value_is_not_the_most_frequent_one_by_rule() -> None:
    """Otherwise one way of reading would answer both tasks."""
    spec = WordTask(task="frequent", keys=(8, 8), facts=(3, 3))
    last = right = 0
    for seed in range(20):
        prompt = make_prompt(spec, stream("last", seed), words=200)
        context = prompt.text.split()[:-24]
        for answer, (begin, _) in zip(prompt.answer_texts, prompt.answers, strict=True):
            key = prompt.text[:begin].split()[-1]
            place = len(context) - 1 - context[::-1].index(key)
            last += 1
            right += context[place + 1] == answer.strip()
    assert 0.5 < right / last < 0.85, "two of three facts have the answer"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"task": "copy", "keys": (2, 12), "facts": (3, 4)}, "at most 10 keys"),
        ({"task": "labels", "keys": (2, 41)}, "at most 40 keys"),
        ({"task": "frequent", "facts": (5, 3)}, "the fewest are more than the most"),
    ],
)
def test_what_the_vocabulary_does_not_hold_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        WordTask(**options)  # type: ignore[arg-type]


def test_training_documents_are_no_evaluation_prompts() -> None:
    """Both are made by one function; their streams differ, so no text of one is a text of the other."""
    options = {"task": "copy", "words": [64], "keys": [2, 6], "facts": [3, 6]}
    trained = {
        document.text for document in embedded_documents("word_tasks", seed=0, size_bytes=20_000, options=options)
    }
    spec = WordTask(task="copy", keys=(2, 6), facts=(3, 6))
    asked = {
        make_prompt(spec, stream("evaluate", "retrieval/word_task_copy", 64, 0, n), words=64).text for n in range(99)
    }
    assert len(trained) > 30 and not trained & asked
    assert name_probe(spec) == "word_task_copy"
