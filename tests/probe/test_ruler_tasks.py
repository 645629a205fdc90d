"""RULER's tasks: an independent solver finds every answer in the text, and the score is that of the benchmark."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.probe.haystack import count_words
from ropewalk.probe.kinds import make_prompt, make_ruler_sample, name_probe
from ropewalk.probe.ruler_needles import cut_essays
from ropewalk.probe.ruler_task import RULER_NAMES, RulerName, RulerTask, match_strings
from ropewalk.probe.word_lists import KEYS, LISTED_WORDS, SINGLE_WORDS


def solve(task: str, text: str) -> set[str]:
    """The answers, from the last question of the text alone."""
    if task.startswith("niah"):
        asked = (
            re.findall(r"magic \w+ for ([\w\-, ]+) mentioned in the provided text\?", text)[-1]
            .replace(", and ", ", ")
            .split(", ")
        )
        facts = re.findall(r"One of the special magic \w+ for (\S+) is: (\S+)\.", text)
        return {value for key, value in facts if key in asked}
    if task == "vt":
        value = re.findall(r"assigned the value (\d+)", text)[-1]
        held: dict[str, str] = {}
        for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", text):
            held[name] = held.get(source, source)
        return {name for name, number in held.items() if number == value and len(name) == 5}
    if task == "cwe":
        listed = re.findall(r"\d+\. (\w+)", text[text.rindex("Below is") :])
        return {word for word, _ in Counter(listed).most_common(10)}
    if task == "fwe":
        return {
            word
            for word, _ in Counter(re.findall(r"\b[a-z]{6}\b", text[133 : text.rindex("\nQuestion")])).most_common(3)
        }
    name = re.findall(r"Where was (?:the teacher of )?([\w ]+) born\?", text)[-1]
    if task == "qa_2":
        name = re.findall(rf"\n{name} was born.*? was taught by ([\w ]+)\.", text)[0]
    return {re.findall(rf"\n{name} was born in (\w+)", text)[0]}


@pytest.mark.parametrize("task", RULER_NAMES)
@pytest.mark.parametrize("words", [700, 2500])
def test_the_answers_follow_from_the_text(task: RulerName, words: int) -> None:
    for seed in range(4):
        sample = make_ruler_sample(RulerTask(task=task), stream("ruler", seed), words=words)
        assert solve(task, sample.question) == set(sample.references)
        assert 0.9 * words <= count_words(sample.prompt.text, "en") <= words
        assert sample.question[-1] not in " \n", "a model begins with the space of its first word"
        assert sample.match(sample.prompt.text[len(sample.question) :]) == 1 and sample.match("nothing") == 0
        assert make_prompt(RulerTask(task=task), stream("ruler", seed), words=words) == sample.prompt
    assert name_probe(RulerTask(task=task)) == f"ruler_{task}"


def test_parameters_are_those_of_the_benchmark() -> None:
    sizes = {"multivalue": 4, "multiquery": 4, "single_1": 1, "multikey_1": 1, "multikey_3": 1}
    for name, count in sizes.items():
        sample = make_ruler_sample(RulerTask(task=f"niah_{name}"), stream("n"), words=900)  # type: ignore[arg-type]
        assert len(sample.references) == count
    assert sample.question.startswith("A special magic uuid is hidden within the following text.")
    assert re.fullmatch(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", sample.references[0])
    long = make_ruler_sample(RulerTask(task="cwe"), stream("n"), words=4000)
    counts = Counter(re.findall(r"\d+\. (\w+)", long.question[long.question.rindex("Below is") :]))
    assert set(counts.values()) == {30, 3} and len(long.references) == 10
    coded = make_ruler_sample(RulerTask(task="fwe"), stream("n"), words=4000).question.split()
    ranks = [number for _, number in Counter(word for word in coded if len(word) in (3, 6)).most_common(4)]
    assert ranks[0] / ranks[1] == pytest.approx(4, rel=0.05) and ranks[0] / ranks[2] == pytest.approx(9, rel=0.05)
    assert [RulerTask(task=task).generated_tokens for task in RULER_NAMES] == [*[128] * 8, 30, 120, 50, 32, 32]
    assert make_ruler_sample(RulerTask(task="vt"), stream("n"), words=900).question.count("Memorize and track") == 2
    alone = RulerTask(task="vt", example=False)
    assert make_ruler_sample(alone, stream("n"), words=900).question.count("Memorize and track") == 1


def test_scores_are_the_share_of_references_or_any_of_them() -> None:
    assert match_strings(" 12, and \x01 34", ["12", "34", "56", "78"]) == 0.5
    assert match_strings("In PARIS.", ["paris"]) == 1
    assert match_strings("the second", ["first", "second"], any_reference=True) == 1
    assert match_strings("", ["a"]) == 0


def test_essays_and_questions_of_the_user_are_read(tmp_path: Path) -> None:
    essays = tmp_path / "essays.txt"
    essays.write_text(" ".join(f"Line {n} of the user is here." for n in range(300)))
    spec = RulerTask(task="niah_multivalue", essays=str(essays))
    sample = make_ruler_sample(spec, stream("e"), words=800)
    assert "of the user is here" in sample.question and solve("niah_multivalue", sample.question) == set(
        sample.references
    )
    with pytest.raises(UserError, match="the essays have"):
        make_ruler_sample(spec, stream("e"), words=20_000)
    told = "It cost $3.50 in the U.S. market, see www.x.com/a?b=1."
    points, endless = tmp_path / "points.txt", tmp_path / "endless.txt"
    points.write_text(f"{told} 他说：好。很好！ " * 9)
    found = cut_essays(str(points), stream("e"), words=70)
    assert found.count("It cost $3.50 in the U.S.") >= 5 and found.count("很好！") >= 5, (
        "no point within a word cuts it"
    )
    endless.write_text("word " * 5000)
    with pytest.raises(UserError, match="a sentence of the essays has 5,000 words, and a prompt has room for 2,"):
        make_ruler_sample(spec.model_copy(update={"essays": str(endless)}), stream("e"), words=3000)
    paragraphs = [
        {
            "context": f"Fact {n} says {n * 7}.",
            "qas": [{"question": f"What says {n}?", "answers": [{"text": f"{n * 7}"}]}],
        }
        for n in range(50)
    ]
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    hotpot = tmp_path / "hotpot.json"
    context = [["One", ["A is near B."]], ["Two", ["B is near C."]]]
    hotpot.write_text(json.dumps([{"question": "What is near what is near A?", "answer": "C", "context": context}]))
    sample = make_ruler_sample(RulerTask(task="qa_1", questions=str(squad)), stream("e"), words=200)
    asked = re.findall(r"What says (\d+)\?", sample.question)[0]
    assert sample.references == (str(int(asked) * 7),) and f"Fact {asked} says" in sample.question
    sample = make_ruler_sample(RulerTask(task="qa_2", questions=str(hotpot)), stream("e"), words=200)
    assert "A is near B." in sample.question and "B is near C." in sample.question and sample.any_reference
    (tmp_path / "wrong.json").write_text("[1]")
    with pytest.raises(UserError, match="cannot be read"):
        make_ruler_sample(RulerTask(task="qa_1", questions=str(tmp_path / "wrong.json")), stream("e"), words=200)


@pytest.mark.parametrize("task", RULER_NAMES)
def test_too_few_words_are_refused(task: RulerName) -> None:
    with pytest.raises(UserError, match="too short"):
        make_ruler_sample(RulerTask(task=task), stream("n"), words=30)


def test_lists_take_single_words_first_and_longer_ones_only_where_these_are_not_enough() -> None:
    """Two words written together are three or four tokens: they halved the list, and 4Ki tokens got a short one's."""
    single = set(SINGLE_WORDS)
    counts: Counter[tuple[bool, bool]] = Counter()
    for words, everything in ((1400, False), (6000, True)):  # 1,400 are less than 4Ki tokens of any tokenizer
        for seed in range(6):
            sample = make_ruler_sample(RulerTask(task="cwe"), stream("single", seed), words=words)
            listed = re.findall(r"\d+\. (\w+)", sample.question[sample.question.rindex("Below is") :])
            assert (set(listed) >= single) is everything and (set(listed) <= single) is not everything
            assert set(Counter(listed).values()) == {30, 3}
            counts.update((everything, name in single) for name in sample.references)
    assert counts[False, True] == 60
    short = make_ruler_sample(RulerTask(task="cwe"), stream("single"), words=1000).question
    assert set(Counter(re.findall(r"\d+\. (\w+)", short[short.rindex("Below is") :])).values()) == {6, 1}
    assert counts[True, True] > 0 < counts[True, False], "the common ones are of both kinds"


def test_lists_hold_no_word_twice() -> None:
    for words in (KEYS, LISTED_WORDS, SINGLE_WORDS):
        assert len(words) == len(set(words))
    assert len(KEYS) > 20_000 and len(LISTED_WORDS) > 50_000


@pytest.mark.parametrize("task", [task for task in RULER_NAMES if task != "fwe"])
def test_a_depth_is_the_place_of_the_fact_and_no_document_stands_twice(task: RulerName) -> None:
    for seed in range(3):
        sample = make_ruler_sample(RulerTask(task=task), stream("depth", seed), words=1500)
        text = sample.question
        if task == "vt":
            context = text[text.rindex("following text.\n\n") + 17 : text.rindex("\nQuestion:")]
            facts = [f"VAR {name} = " for name in sample.references]
        elif task == "cwe":
            listed = re.findall(r"\d+\. (\w+)", text[text.rindex("Below is") :])
            assert [listed[round(d * len(listed))] for d in sample.prompt.depths] == list(sample.references)
            assert [listed.index(name) / len(listed) for name in sample.references] == list(sample.prompt.depths)
            continue
        elif task.startswith("qa"):
            context = text[text.index("given documents.\n\nD") + 18 : text.rindex("\n\nAnswer the question")]
            told = [part.partition(":\n")[2] for part in context.split("\n\n")]
            assert len(set(told)) == len(told)
            name = re.findall(r"Where was (?:the teacher of )?([\w ]+) born\?", text)[-1]
            needed = {name, *re.findall(rf"{name} was taught by ([\w ]+)\.", text)[: task == "qa_2"]}
            first = next(number for number, document in enumerate(told) if document.split("\n")[0] in needed)
            facts = [f"Document {first + 1}:"]
        else:
            context = text[text.index("afterwards.\n") + 12 : text.rindex("\nWhat ")]
            facts = [f" is: {value}." for value in sample.references]
        places = [round(depth * len(context)) for depth in sample.prompt.depths]
        assert all(context.startswith(fact, place) for place, fact in zip(places, facts, strict=True))
