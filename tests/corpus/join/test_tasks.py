"""Every answer is right by another program, tasks take the wanted share, and none is a question of an evaluation."""

import ast
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import ropewalk
from corpus.conftest import write_records
from made_texts import HAN, WORDS, han
from ropewalk.core.seed import stream
from ropewalk.corpus.join.task_text import read_terms
from ropewalk.corpus.join.task_wordings import ANSWERS, GAP, QUESTIONS, REQUESTS
from ropewalk.corpus.join.tasks import SENTENCES, Task, make_task
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.ledger import format_ledger
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.task_rules import FAMILIES, Family
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer

SRC = Path(ropewalk.__file__).parent
NAMES = [f"{one}{two}" for one in WORDS[:6] for two in ("ton", "wick")]


def prose(number: int, sentences: int = 60) -> str:
    """With a heading before every twelfth sentence."""
    random = stream("prose", number)
    made = []
    for at in range(sentences):
        if at % 12 == 0:
            made.append(f"Chapter {at // 12 + 1} of the log")
        name = NAMES[int(random.integers(len(NAMES)))] if at % 3 else WORDS[int(random.integers(30))]
        made.append(" ".join(random.choice(WORDS, 9).tolist()).capitalize() + f" near {name} {number}-{at}.")
    return "\n".join(made)


def program(number: int) -> str:
    random = stream("program", number)
    lines = [
        f"limit_{at % 7} = {int(random.integers(900)) + at}  # {' '.join(random.choice(WORDS, 6))}" for at in range(70)
    ]
    functions = [
        f"def run_{number}_{at}(x):\n    " + "\n    ".join(lines[at::5]) + f"\n\ntotal_{number} = 0\n"
        for at in range(5)
    ]
    rest = [f"    # {' '.join(random.choice(WORDS, 9).tolist())}" for _ in range(40)]
    return "\n".join([*functions, f"def end_{number}(x):", *rest])


def chinese(number: int) -> str:
    """Names of two characters among runs of others."""
    random = stream("chinese", number)
    names = ["张三", "李四", "王五", "赵六"]
    own = [names[int(random.integers(4))] + han(70 * number + at, 14 + at % 5) for at in range(90)]
    parts = [f"第{at + 1}条　" + "。\n".join(own[18 * at : 18 * at + 18]) for at in range(5)]
    parts[2] += f"。\n期限：{number}\n{han(number, 30)}。\n期限：{number + 5}\n{han(number + 1, 9)}"
    return "。\n".join(parts) + f"。\n{han(number, 30)}。\n"


MAKERS = {"en": prose, "code": program, "zh": chinese}


def check(text: str, language: str, task: Task) -> None:
    """The answer, found again without the maker's helpers."""
    word = task.about[0]
    numbers = re.findall(r"\d+", task.answer)
    if task.family == "count":
        hits = re.findall(re.escape(word) if language == "zh" else rf"(?i)(?<!\w){re.escape(word)}(?!\w)", text)
        absent = task.answer in ANSWERS["zh" if language == "zh" else "en"]["absent"]
        assert (len(hits) == 0) if absent else numbers == [str(len(hits))]
    elif task.family == "order":
        earlier, later = sorted(task.about, key=text.index)
        assert text.index(earlier) <= 0.75 * len(text)
        assert earlier in task.answer and later not in task.answer
    elif task.family == "mention":
        assert word in task.answer and text.count(task.answer) == 1
        at, first = (
            text.index(task.answer),
            task.question in [q.format(a=word) for q in QUESTIONS[language]["mention_first"]],
        )
        if first:
            assert word not in text[:at]
        else:
            assert word not in text[at + len(task.answer) :]
    elif task.family == "cloze":
        assert word.count(GAP[language]) == 1 and text.count(word.replace(GAP[language], task.answer)) == 1
        sentence = text.index(word.replace(GAP[language], task.answer))
        assert text.index(task.answer) < sentence - len(text) // 8 and sentence <= 0.75 * len(text)
    elif task.family == "heading":
        check_heading(text, word, task.answer)
    elif task.family == "frequent":
        counts = [text.count(each) for each in task.about]
        first = task.about[counts.index(max(counts))]
        assert first in task.answer and sorted(counts)[1] < max(counts)
        assert not any(each in task.answer for each in task.about if each != first)
    elif task.family == "recall":
        assert (
            re.search(rf"{re.escape(word)} *{re.escape(task.answer)}[ \t\u3000]*$", text, re.MULTILINE)
            and text.count(word) == 1
        )
    else:
        given = re.findall(rf"^\s*{re.escape(word)}\s*[=：]\s*(.+)$", text, re.MULTILINE)
        assert given[-1].strip() == task.answer and len({*given}) > 1
        assert text.rindex(task.answer, 0, int(0.75 * len(text)) + 50) > text.index(word)


def check_heading(text: str, word: str, answer: str) -> None:
    """Line by line: the last line so far that is a heading, and for programs nothing at the margin behind it."""
    over = ""
    for line in text.split("\n"):
        head = re.match(r"(?:def )?((?<=def )\w+|Chapter \d+.*|第\d+条)", line)
        if head:
            over = head[1]
        elif line[:1].strip() and "(x)" in text:
            over = ""
        if word in line[head.end() if head else 0 :]:
            break
    assert over == answer


@pytest.mark.parametrize("language", MAKERS)
def test_answers_are_right(language: str) -> None:
    kind, found = ("zh" if language == "zh" else "en"), Counter[str]()
    other = None
    for number in range(4):
        text = read_terms(MAKERS[language](number), language)
        random = stream("test of tasks", language, number)
        for at in range(120):
            family: Family = FAMILIES[at % len(FAMILIES)]
            if (task := make_task(text, family, random, other=other)) is not None:
                check(text.text, kind, task)
                assert task.about[0] in task.question
                found[family] += 1
        other = read_terms(MAKERS["zh" if language == "zh" else "en"](900 + number), kind)
    wanted = {*FAMILIES} - ({"overwrite"} if language == "en" else set())
    assert {*found} >= wanted - ({"cloze", "mention"} if language == "code" else set()), found


def ask(text: str, family: Family, other: str | None = None) -> list[Task]:
    read, strange = read_terms(text, "en"), None if other is None else read_terms(other, "en")
    random = stream("ask", family)
    return [task for _ in range(60) if (task := make_task(read, family, random, other=strange)) is not None]


def test_words_sentences_and_settings_are_whole() -> None:
    rest = "Nobody knew it.\n" * 3
    accents = ask(
        "The naïveté of Überraschung, naïveté, naïveté: Überraschung. Überraschung! Harbour harbour.\n" + rest, "count"
    )
    assert all(task.about[0] == "Nobody" for task in accents) and accents
    strange = ask("the harbour lies still. " * 9, "count", other="Harbour winds blow. Lanterns swing. " * 9)
    assert {task.about[0] for task in strange if task.answer in ANSWERS["en"]["absent"]} == {
        "Lanterns",
        "winds",
        "swing",
    }
    figures = 'He wrote "3.5 metres of lantern." Then 2.25 more.\nThe lantern cost 4.75 crowns, e.g. in May.\n'
    found = {task.answer for task in ask(figures + "A lantern\n" + rest * 30, "mention")}
    assert found == {'He wrote "3.5 metres of lantern."'}
    settings = (
        "depth = 1\nwidth = 3\nwidth = 4\ndepth = 5\ndepth += 2\nstep+=1\nstep+=2\nlate = 1\n" + rest + "late = 2\n"
    )
    assert {(task.about[0], task.answer) for task in ask(settings, "overwrite")} == {("width", "4")}


def test_no_number_ends_a_sentence_where_the_search_does() -> None:
    for before in range(235, 245):
        line = f"{('harbour ' + 'ab ' * 90)[: before - 2]} 3.14 metres were seen by all that came that way."
        text = read_terms("\n".join([line, *["The harbour is old."] * 3, *["ab cd ef"] * 400]), "en")
        random = stream("numbers")
        tasks = [make_task(text, "mention", random) for _ in range(40)]
        assert not [task for task in tasks if task and task.answer.endswith("3.")], before


def test_a_line_is_searched_for_sentences_once() -> None:
    """As by the expression that tries each character for a beginning, in quadratic time."""
    close = r"[\"'”’)\]」』）]*"
    plain = re.compile(rf"(?:[^\n。！？.!?]|[.!?](?!{close}(?:\s|$)))+(?:[。！？]{close}|[.!?]{close}(?=\s|$))")
    random = stream("sentences")
    for _ in range(3000):
        text = "".join(random.choice([*'ab 天 \n."”)。！?3'], int(random.integers(1, 40))).tolist())
        begin, end = sorted(random.integers(0, len(text) + 1, 2).tolist())
        found = [match.span() for match in SENTENCES.finditer(text, begin, end) if match[1] is not None]
        assert found == [match.span() for match in plain.finditer(text, begin, end)], (text, begin, end)


@pytest.mark.parametrize("kinds", [("en", "en"), ("code", "en"), ("zh", "en"), ("en", "zh")])
def test_words_of_another_text_are_searched_in_all_of_this_one(kinds: tuple[str, str]) -> None:
    """Also where only the runs of a text are searched: in parts of words, another case, and odd letters."""
    random, missing = stream("strange", *kinds), 0
    odd = ["it’s-so", "naïve", "MiXed_caSe9", "张三", "李四"]
    for number in range(30):
        words = [random.choice([*NAMES, *odd, *["İstanbul"][: number % 3]], 120) for _ in kinds]
        cut = [" ".join(word[: int(random.integers(4, 12))] for word in each) for each in words]
        texts = [chinese(number) if kind == "zh" else text for kind, text in zip(kinds, cut, strict=True)]
        read, other = map(read_terms, texts, kinds)
        expected = [word for word in other.terms if word.lower() not in texts[0].lower()]
        assert read.find_strange(other).all == expected
        missing += len(expected)
    assert missing


def make(folder: Path, tokenizer: Tokenizer, name: str = "corpus", **rules: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    path = write_records(folder, "x.jsonl", [{"text": prose(n, 30)} for n in range(40)])
    source = {"name": "x", "path": str(path), "role": "general", "language": "en", "near_duplicates": None}
    made = {
        "store": str(folder / "store"),
        "mix": {"x": 1},
        "repeated_sections": None,
        "worker_count": 1,
        "held_out": 0.1,
    }
    sources = [{**source, "profile": "markup", "tasks": rules}]
    spec = CorpusSpec.model_validate({**made, "sources": sources})
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=folder / name))


def test_tasks_take_their_share_and_stand_behind_the_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rules = {"share": 0.05, "documents": 0.5, "from_tokens": 200, "loss": "answers", "families": [*FAMILIES]}
    corpus = make(tmp_path, tokenizer, **rules)
    told = corpus.ledger["x"]["joins"]["train"]
    assert abs(told["task_tokens"] / told["tokens_out"] - 0.05) < 0.005
    records = [json.loads(line) for line in (corpus.folder / "x" / "tasks.jsonl").read_text().splitlines()]
    assert len(records) == told["tasks"] > 20 and "share asks for" not in format_ledger(corpus.ledger)
    by_document: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        by_document.setdefault(record["document"], []).append(record)
    documents, texts = corpus.train("x"), {prose(n, 30) for n in range(40)}
    assert 0.2 < len(by_document) / len(documents) < 0.8
    for document in range(len(documents)):
        ids, mask = documents.read(document)
        assert ids[-1] == tokenizer.eos_id and (ids == tokenizer.eos_id).sum() == 1
        own = by_document.get(document, [])
        behind = "".join(f"\n\n{task['question']}\n{task['answer']}" for task in own)
        whole = tokenizer.decode(ids[1:-1])
        assert whole.removesuffix(behind) in texts  # without the tasks it is the text itself
        asked = "".join(f"\n\n{task['question']}\n" for task in own)
        untrained, _ = (tokenizer.decode(ids[1:-1][mask[1:-1] == value]) for value in (0, 1))
        assert untrained == asked
    more = make(tmp_path, tokenizer, "more", **{**rules, "share": 0.2, "documents": 0.2})
    documents, checked = more.train("x"), 0
    records = [json.loads(line) for line in (more.folder / "x" / "tasks.jsonl").read_text().splitlines()]
    for record in records:
        task = Task(record["family"], tuple(record["about"]), record["question"], record["answer"])
        if task.family == "count":  # earlier tasks are above it too
            whole = tokenizer.decode(documents.read(record["document"])[0][1:-1])
            check(whole[: whole.index(f"\n\n{task.question}\n")], "en", task)
            checked += 1
    assert checked > 5


def test_a_share_that_is_not_reached_is_told(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = make(tmp_path, tokenizer, share=0.2, documents=0.1, from_tokens=200)
    assert corpus.ledger["x"]["joins"]["train"]["tasks"]
    assert "\n  share asks for 20.00%: `documents`, from_tokens" in format_ledger(corpus.ledger)


def read_literals(path: Path) -> list[str]:
    """All texts of a file but its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare
    ]


def grams(texts: list[str]) -> set[tuple[str, ...]]:
    """Five words in a row, or six Chinese characters."""
    found: set[tuple[str, ...]] = set()
    for text in texts:
        words = re.findall(r"[a-z]+", text.lower())
        signs = re.findall("[\u4e00-\u9fff]", text)
        found |= {tuple(words[at : at + 5]) for at in range(len(words) - 4)}
        found |= {tuple(signs[at : at + 6]) for at in range(len(signs) - 5)}
    return found


def test_tasks_share_no_wording_and_no_code_with_an_evaluation() -> None:
    """Trained tasks that are those of the test would be learned as such: RULER rises and nothing else does."""
    ours = [
        form for table in (QUESTIONS, ANSWERS) for forms in table.values() for own in forms.values() for form in own
    ] + [*REQUESTS.values()]
    evaluations = [*(SRC / "probe").glob("*.py"), *(SRC / "evaluate").glob("*.py")]
    theirs = [literal for path in evaluations for literal in read_literals(path)]
    assert len(grams(ours)) > 100 and len(grams(theirs)) > 500
    assert not grams(ours) & grams(theirs)
    for path in (SRC / "corpus" / "join").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not any(module.startswith(("ropewalk.probe", "ropewalk.evaluate")) for module in modules)
    for path in evaluations:
        assert "corpus.join" not in path.read_text(encoding="utf-8")


def test_the_measure_of_shared_wording_by_example() -> None:
    assert grams(["What is the pass key?"]) & grams(["And what is the pass key now"])
    assert grams(["暗号是多少？的暗号是"]) & grams(["问：暗号是多少？的暗号"]) and not grams([HAN[:5]])


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"role": "instruction"}, "not for instructions"),
        ({"fill_in_middle": {}}, "exclude fill_in_middle"),
        ({"join": {"by": "x", "order": "y", "attend": "parts"}}, "attend: parts"),
        ({"tasks": {"share": 0.5}}, "less than or equal to 0.2"),
        ({"tasks": {"from_tokens": 4096, "most_tokens": 256}}, "most_tokens is 256, below from_tokens 4096"),
    ],
)
def test_what_tasks_cannot_stand_with(keys: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Source.model_validate({"name": "a", "path": "x", "role": "general", "tasks": {}, **keys})


def test_half_of_the_families_are_not_trained_by_default() -> None:
    families = Source.model_validate({"name": "a", "path": "x", "role": "general", "tasks": {}}).tasks
    assert families is not None and 2 * len(families.families) == len(FAMILIES)
    assert np.isclose(families.share, 0.02)
