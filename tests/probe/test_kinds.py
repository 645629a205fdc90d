"""Every other probe: an independent solver reads the answer from the text, and finds the fact at its depth."""

import re
from collections import Counter

import pytest
from pydantic import TypeAdapter, ValidationError

from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.probe.haystack import count_words
from ropewalk.probe.key_value import KeyValue
from ropewalk.probe.kinds import Probe, make_prompt
from ropewalk.probe.needle import Needle
from ropewalk.probe.passkey import Passkey
from ropewalk.probe.prompt import Prompt, fit_prompt
from ropewalk.probe.ruler import CommonWords, NeedleAmongNeedles, VariableTracking


def solve_passkey(text: str) -> tuple[list[str], list[int]]:
    found = re.search(r"The pass key is (\d+)\.|口令是(\d+)。", text)
    assert found
    return [found[1] or found[2]], [found.start()]


def solve_needle(text: str) -> tuple[list[str], list[int]]:
    town = re.search(r"What is the secret number of (\w+)\?|\n(\w+?)的暗号是多少", text)
    assert town
    found = re.search(rf"The secret number of {town[1]} is (\d+)\.|{town[2]}的暗号是(\d+)。", text)
    assert found
    return [found[1] or found[2]], [found.start()]


def solve_variables(text: str) -> tuple[list[str], list[int]]:
    wanted = re.search(r"hold the value (\d+)", text)
    assert wanted
    values: dict[str, str] = {}
    names, places = [], []
    for found in re.finditer(r"Set (\w+) = (\w+)\.", text):
        values[found[1]] = values.get(found[2], found[2])
        if values[found[1]] == wanted[1]:
            names.append(found[1])
            places.append(found.start())
    return names, places


def solve_common(text: str) -> tuple[list[str], list[int]]:
    words = text.split("\n\n")[0].split()
    count = int(re.search(r"The (\d+) most", text)[1])
    common = {word for word, _ in Counter(words).most_common(count)}
    names = [word for word in dict.fromkeys(words) if word in common]
    return names, [re.search(rf"\b{name}\b", text).start() for name in names]


def solve_needles(text: str) -> tuple[list[str], list[int]]:
    key = re.search(r"What is the number of (\w+)", text)[1]
    found = re.search(rf"The number of {key} is (\d+)\.", text)
    assert found
    return [found[1]], [found.start()]


CASES = [
    (Passkey(), solve_passkey),
    (Passkey(language="zh", digits=6), solve_passkey),
    (Needle(), solve_needle),
    (Needle(language="zh", distractors=7), solve_needle),
    (VariableTracking(), solve_variables),
    (VariableTracking(hops=2, chains=5), solve_variables),
    (CommonWords(common=4, common_repeats=9), solve_common),
    (NeedleAmongNeedles(), solve_needles),
]


@pytest.mark.parametrize(("probe", "solve"), CASES, ids=lambda case: getattr(case, "kind", ""))
@pytest.mark.parametrize("words", [250, 1500])
@pytest.mark.parametrize("seed", range(5))
def test_answers_follow_from_the_text_and_stand_at_their_depth(probe, solve, words: int, seed: int) -> None:  # type: ignore[no-untyped-def]
    prompt = make_prompt(probe, stream("test", seed), words=words)
    language = getattr(probe, "language", "en")
    assert words - 60 <= count_words(prompt.text, language) <= words
    asked = prompt.text[: prompt.answers[0][0]]
    answers, places = solve(asked)
    assert [answer.strip() for answer in prompt.answer_texts] == answers
    assert prompt == make_prompt(probe, stream("test", seed), words=words)
    assert prompt != make_prompt(probe, stream("test", seed + 100), words=words)
    context = len(asked.rsplit("\n\n", 1)[0])
    opening = 0 if isinstance(probe, Needle | CommonWords | NeedleAmongNeedles) else prompt.text.index("\n\n") + 2
    for depth, place in zip(prompt.depths, places, strict=True):
        assert depth == pytest.approx((place - opening) / (context - opening), abs=2 / context)


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("kind", [Passkey, Needle, NeedleAmongNeedles])
def test_a_wanted_depth_is_met(kind: type, depth: float) -> None:
    prompt = make_prompt(kind(depth=depth), stream("test"), words=4000)
    assert prompt.depths[0] == pytest.approx(depth, abs=0.02)


@pytest.mark.parametrize(("probe", "solve"), CASES, ids=lambda case: getattr(case, "kind", ""))
def test_too_few_words_are_refused_with_the_number_needed(probe, solve) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError) as caught:
        make_prompt(probe, stream("test"), words=5)
    needed = int(re.search(r"words=(\d+)", caught.value.fix)[1])
    assert make_prompt(probe, stream("test"), words=needed).answers


def test_every_kind_is_chosen_by_name() -> None:
    adapter = TypeAdapter(Probe)
    for probe in (KeyValue(), *(case for case, _ in CASES)):
        assert adapter.validate_python(probe.model_dump()) == probe
    assert len(make_prompt(KeyValue(), stream("test"), words=40).text.split()) == 40


@pytest.mark.parametrize(("probe", "solve"), CASES, ids=lambda case: getattr(case, "kind", ""))
@pytest.mark.parametrize("context_tokens", [600, 5000])
def test_prompts_fill_a_budget_of_tokens(probe, solve, context_tokens: int) -> None:  # type: ignore[no-untyped-def]
    def make(words: int) -> Prompt:
        return make_prompt(probe, stream("test"), words=words)

    prompt = fit_prompt(make, lambda text: len(text) // 3, context_tokens, smallest_words=200)
    assert 0.9 * context_tokens <= len(prompt.text) // 3 <= context_tokens


def test_a_prompt_that_stops_growing_ends_the_search() -> None:
    constant = Prompt(" a b", ((0, 2),), (0.0,))
    assert fit_prompt(lambda words: constant, len, 100) == constant


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_needle_prompt_may_ask_several_towns(language: str) -> None:
    """Each answer is that town's number, at its depth; one question gives the prompt that it gave before."""
    spec = Needle(language=language, questions=5, distractors=6)
    prompt = make_prompt(spec, stream("towns"), words=400)
    facts = re.findall(r"The secret number of (\w+) is (\d+)\.|(\w+?)的暗号是(\d+)。", prompt.text)
    numbers = {name or other: number or last for name, number, other, last in facts}
    asked = re.findall(r"What is the secret number of (\w+)\?|\n(\w+?)的暗号是多少", prompt.text)
    names = [one or other for one, other in asked]
    assert len(names) == len(set(names)) == 5 and len(numbers) == 7
    assert [text.strip() for text in prompt.answer_texts] == [numbers[name] for name in names]
    context = prompt.text.split("\n\n")[0]
    for name, depth in zip(names, prompt.depths, strict=True):
        place = re.search(rf"secret number of {name} is|{name}的暗号是", context).start()
        assert depth == pytest.approx(place / len(context), abs=0.02)
    with pytest.raises(ValidationError, match="questions=5"):
        Needle(questions=5)
    alone = make_prompt(Needle(language=language), stream("one"), words=200)
    assert len(alone.answers) == 1 and alone.text.endswith(alone.answer_texts[0])


@pytest.mark.parametrize("probe", [CommonWords(), NeedleAmongNeedles()])
def test_a_prompt_of_invented_words_fills_a_long_text(probe: CommonWords | NeedleAmongNeedles) -> None:
    """There are 7,225 words of two syllables: from some 64Ki tokens on they would leave a prompt short."""
    prompt = make_prompt(probe, stream("test"), words=60_000)
    assert 59_900 < count_words(prompt.text, "en") <= 60_000
    assert all(prompt.text[begin:end].strip() for begin, end in prompt.answers)


@pytest.mark.parametrize(
    ("kind", "wrong", "why"),
    [
        (CommonWords, {"common_repeats": 3, "rare_repeats": 3}, "rare_repeats=3: it must be below common_repeats"),
        (CommonWords, {"common_repeats": 2}, "it must be below common_repeats, which is 2"),
        (VariableTracking, {"hops": 2000, "chains": 10}, "20,010 variables, at most 17,576"),
    ],
)
def test_what_no_text_can_hold_is_refused_where_a_recipe_is_read(kind: type, wrong: dict[str, int], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        kind(**wrong)
