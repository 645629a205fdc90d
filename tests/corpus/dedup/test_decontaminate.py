"""Evaluation prompts are kept out of the text, as much of it as the recipe says, and what went is told twice over."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.dedup import decontaminate
from ropewalk.corpus.dedup.decontaminate import RUN_HAN, RUN_WORDS, Prompts, read_prompts
from ropewalk.corpus.inspect.dropped import format_reasons, inspect_corpus
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.ledger import format_ledger
from ropewalk.corpus.prompt_rules import PromptRules
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from shared_folder import SHARED


def words(number: int, count: int) -> list[str]:
    return sentence(number, count).split()


def rules(*files: Path | str, **keys: Any) -> PromptRules:
    return PromptRules.model_validate({"files": [str(file) for file in files], **keys})


def prompts_of(folder: Path, texts: Sequence[str], **keys: Any) -> Prompts:
    (folder / "exam.jsonl").write_text(
        "".join(json.dumps({"id": f"q{n}", "text": t}) + "\n" for n, t in enumerate(texts))
    )
    return read_prompts(rules(folder / "exam.jsonl", **keys))


def share_by_hand(text: Sequence[str], prompt: Sequence[str], width: int) -> float:
    """The share of a prompt's words in a run that a text has too, one run after the other."""
    runs = {tuple(text[at : at + width]) for at in range(len(text) - width + 1)}
    covered = set[int]()
    for at in range(len(prompt) - width + 1):
        if tuple(prompt[at : at + width]) in runs:
            covered.update(range(at, at + width))
    return len(covered) / len(prompt)


@pytest.mark.parametrize(("width", "letters"), [(RUN_WORDS, False), (RUN_HAN, True)])
def test_the_share_of_a_prompt_is_what_counting_gives(tmp_path: Path, width: int, letters: bool) -> None:
    rng = random.Random(width)
    asked = [[*han(n, 90)] if letters else words(n, 90) for n in range(5)]
    joined = "" if letters else " "
    prompts = prompts_of(tmp_path, [joined.join(each) for each in asked], overlap=0.01)
    for _ in range(60):
        parts = [[*han(1000, 50)] if letters else words(1000, 50)]
        for _ in range(rng.randrange(4)):
            prompt = rng.choice(asked)
            start = rng.randrange(90)
            parts += [prompt[start : start + rng.randrange(5, 60)], ["吃" if letters else "eats"]]
        text = [word for part in parts for word in part]
        truth = [share_by_hand(text, prompt, width) for prompt in asked]
        found = prompts.find(joined.join(text))
        assert (found is None) == (max(truth) < 0.01)
        if found is not None:
            assert found.share == pytest.approx(max(truth)) and found.prompt == f"q{int(np.argmax(truth))}"


def test_less_than_the_share_is_left_alone(tmp_path: Path) -> None:
    asked, around = words(5, 40), words(6, 300)
    prompts = prompts_of(tmp_path, [" ".join(asked)])
    assert prompts.find(" ".join(around + asked[4:23] + around)) is None  # 19 of 40
    found = prompts.find(" ".join(around + asked[4:24] + around).upper())
    assert found is not None and found.share == 0.5 and found.prompt == "q0"
    assert prompts.find(" ".join([*around, *asked[:12], "other", *asked[13:25]])) is None  # no run is long enough
    assert prompts_of(tmp_path, [" ".join(asked)], overlap=0.3).find(" ".join(asked[4:20])) is not None
    assert read_prompts(PromptRules()).find(" ".join(asked)) is None


TITLE = "中华人民共和国刑事诉讼法"
QUESTION = f"根据《{TITLE}》的规定，下列关于回避的说法，哪一项是错误的？"


def test_a_title_is_no_contamination_and_the_question_is(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [QUESTION])
    law = f"第一条 根据《{TITLE}》的规定，制定本办法。" + han(3, 500)
    assert prompts.find(law) is None
    found = prompts.find(f"{law}\n{QUESTION}\n{han(4, 500)}")
    assert found is not None and found.share == 1.0


def test_the_passage_is_cut_with_the_rest_of_its_sentence(tmp_path: Path) -> None:
    asked = sentence(5, 40)
    prompts = prompts_of(tmp_path, [asked])
    before, after = f"{sentence(1, 60)}. ", f" {sentence(2, 60)}."
    text = f"{before}He said: {asked}, and went. And{after}"
    found = prompts.find(text)
    assert found is not None
    ((start, end),) = found.spans
    assert text[:start] + text[end:] == f"{before.rstrip()} And{after}"
    line = "x" * 5000
    ((start, end),) = prompts.find(f"{line} {asked} {line}").spans  # type: ignore[union-attr]
    assert (start, end) == (5001, 5001 + len(asked))  # no sentence ends near: the words alone


@pytest.mark.parametrize("characters", [64, 300, 1000])
def test_a_long_text_is_looked_at_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    asked = sentence(5, 40)
    prompts = prompts_of(tmp_path, [asked])
    text = f"{sentence(1, 400)}. İ {asked}. {sentence(2, 300)}. {asked.title()}"
    whole = prompts.find(text)
    monkeypatch.setattr(decontaminate, "_BLOCK_CHARACTERS", characters)
    found = prompts.find(text)
    assert whole is not None and found == whole and len(found.spans) == 2
    assert [text[start:end].strip(" .İ").lower() for start, end in found.spans] == [asked.lower()] * 2


def build_texts(folder: Path, tokenizer: Tokenizer, records: Sequence[dict[str, Any]], **keys: Any) -> Corpus:
    (folder / "text.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    spec = {
        "store": str(folder / "store"),
        "sources": [{"name": "web", "path": str(folder / "text.jsonl"), "role": "general", "language": "en"}],
        "mix": {"web": 1},
        "held_out": 0,
        **keys,
    }
    return open_corpus(build(CorpusSpec.model_validate(spec), tokenizer=tokenizer, seed=0, folder=folder / "corpus"))


@pytest.mark.parametrize("action", ["cut", "drop"])
def test_both_figures_stand_in_the_ledger(tokenizer: Tokenizer, tmp_path: Path, action: str) -> None:
    asked = sentence(5, 40)
    (tmp_path / "exam").mkdir()
    (tmp_path / "exam" / "a.csv").write_text(f"id,question\nn7,{asked}\n")
    (tmp_path / "exam" / "b.txt").write_text(sentence(6, 40))
    long, short = f"{sentence(1, 200)}.\n{asked}.\n{sentence(2, 200)}.\n{asked}.\n", f"{asked}."
    records = [
        {"text": long},
        {"text": short},
        {"text": f"{sentence(3, 40)}\n{asked}\n{sentence(4, 90)}", "loss_spans": [[0, 20]]},
        {"text": sentence(9, 200)},
    ]
    corpus = build_texts(
        tmp_path, tokenizer, records, decontaminate={"files": [str(tmp_path / "exam")], "action": action}
    )
    dropped, bytes_cut = corpus.ledger["web"]["dropped"], 2 * len(f"{asked}.")
    whole = sum(len(record["text"]) for record in records[:3])
    if action == "drop":
        assert dropped == {"contaminated": {"documents": 3, "bytes": whole, "tokens": 0}}
        return
    assert dropped == {
        "contaminated": {"documents": 2, "bytes": whole - len(long), "tokens": 0},
        "contaminated passage": {"documents": 0, "bytes": bytes_cut, "tokens": 0, "passages": 2},
    }
    kept = [tokenizer.decode(corpus.train("web").read(number)[0]) for number in range(2)]
    assert any(sentence(1, 200) in text and sentence(2, 200) in text for text in kept)
    assert not any(asked in text for text in kept)
    assert "2 cut" in format_ledger(corpus.ledger)
    shown = format_reasons(inspect_corpus(corpus), corpus.ledger)
    assert "contaminated passage, 2 cut out of documents" in shown and "100% of n7 is in the document" in shown
    manifest = json.loads((corpus.store("web") / "manifest.json").read_text())
    assert manifest["facts"]["contaminated"] == {
        "100% of n7 is in it": 2,
        "100% of n7 is in the document": 2,
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json.dumps({"problem": "ASKED", "level": 3})),
        ("a.json", json.dumps(["ASKED", sentence(77, 30)])),
        ("a.json", json.dumps([{"context": "ASKED", "input": "who?", "n": 1}])),
        ("a.jsonl", json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": "ASKED"}]}]})),
        ("a.jsonl", json.dumps({"conversations": [{"from": "human", "value": "ASKED"}]})),
        ("a.jsonl", json.dumps({"prompt": "ASKED"})),
        ("a.csv", "n,question\n1,ASKED\n"),
        ("a.txt", f"{sentence(70, 30)}\nASKED\n{sentence(71, 30)}\n"),
        ("a.md", f"{sentence(70, 30)}\n\nASKED\n\n{sentence(71, 30)}\n"),
    ],
)
@pytest.mark.parametrize("path", ["", "*", "NAME"])
def test_prompts_are_found_in_any_file(tmp_path: Path, name: str, content: str, path: str) -> None:
    asked = sentence(5, 40)
    (tmp_path / name).write_text(content.replace("ASKED", asked))
    found = read_prompts(rules(tmp_path / path.replace("NAME", name))).find(f"{sentence(1, 90)} {asked}")
    assert found is not None and found.share == 1.0


def test_a_key_can_be_named_and_has_to_be_where_none_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"stem": sentence(5, 40), "answer": "B"}))
    with pytest.raises(UserError, match=r"found keys stem, answer[\s\S]*text_key"):
        read_prompts(rules(tmp_path))
    assert read_prompts(rules(tmp_path, text_key="stem")).find(sentence(5, 40)) is not None


def test_short_prompts_are_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [sentence(5, 40), "only five words in here", han(1, 19), han(2, 20)]
    prompts = prompts_of(tmp_path, texts)
    assert prompts.too_short == 2 and prompts.names == ("q0", "q3")
    assert "2 of 4 prompts are not searched for" in capsys.readouterr().err
    with pytest.raises(UserError, match="no evaluation prompt is long enough"):
        prompts_of(tmp_path, texts[1:3])


def test_of_probes_only_what_one_prompt_asks_is_looked_for() -> None:
    how = sentence(0, 40)
    asked = {"key_value": [f"{how} {sentence(n, 40)}" for n in (1, 2, 3)]}
    prompts = read_prompts(rules("probes"), asked)
    assert prompts.find(how) is None
    found = prompts.find(f"{sentence(9, 30)} {sentence(2, 40)}")
    assert found is not None and found.prompt == "key_value, prompt 1"
    assert read_prompts(PromptRules(), asked).find(sentence(2, 40)) is None
    again = Prompts.from_json(json.loads(json.dumps(prompts.to_json())))
    assert again.find(f"{how} {sentence(3, 40)}") == prompts.find(f"{how} {sentence(3, 40)}") is not None
    assert again.digest == prompts.digest and len(prompts.digest) == 2


@pytest.mark.parametrize("width", [RUN_WORDS, 30])
def test_examples_before_every_question_are_not_the_question(tmp_path: Path, width: int) -> None:
    """Only the question is compared, whole; a passage that a few questions share is compared too."""
    examples, end = sentence(0, 100), "answer with one letter and nothing else at all so that it can be read by machine"
    questions = [sentence(n, width) for n in range(1, 13)]
    prompts = prompts_of(tmp_path, [f"{examples} {question} {end}" for question in questions])
    assert prompts.find(f"{examples} {end}") is None
    found = prompts.find(f"{sentence(50, 90)} {questions[7]}")
    assert found is not None and found.prompt == "q7" and found.share == 1.0
    few = prompts_of(tmp_path, [f"{examples} {question}" for question in questions[:5]])
    assert few.find(examples) is not None


def test_where_prompts_lie_is_not_what_they_ask(tokenizer: Tokenizer, tmp_path: Path) -> None:
    records = [{"text": sentence(n, 90)} for n in range(20, 30)]
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "exam.jsonl").write_text(json.dumps({"text": sentence(5, 40)}))
    first = build_texts(tmp_path, tokenizer, records, decontaminate=[str(tmp_path / "first")])
    again = build_texts(tmp_path, tokenizer, records, decontaminate=[str(tmp_path / "second")])
    assert first.digest == again.digest and first.store("web") == again.store("web")
    (tmp_path / "second" / "exam.jsonl").write_text(json.dumps({"text": sentence(25, 90)}))
    with pytest.raises(UserError, match="holds another corpus"):
        build_texts(tmp_path, tokenizer, records, decontaminate={"files": [str(tmp_path / "second" / "*")]})


@pytest.mark.skipif(not SHARED.exists(), reason="made beside the project")
def test_a_law_corpus_loses_nothing_to_a_title() -> None:
    from ropewalk.corpus.read.source import read_source
    from ropewalk.corpus.spec import Source

    prompts = read_prompts(rules(SHARED / "cases" / "conversations" / "exam_question_law.jsonl"))
    laws = Source(name="law", path=str(SHARED / "data" / "law_zh.jsonl.zst"), role="domain", language="zh")
    for _, item in zip(range(400), read_source(laws, seed=0), strict=False):
        assert prompts.find(item.text) is None  # type: ignore[union-attr]


def test_probes_of_an_evaluation_that_asks_nothing_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for probes in (None, {}):
        assert not read_prompts(rules("probes"), probes).runs
        assert "decontaminate names probes, but the recipe's evaluation asks no prompts" in capsys.readouterr().err
    read_prompts(rules("probes"), {"task": ["one two three"]})
    assert "names probes" not in capsys.readouterr().err
