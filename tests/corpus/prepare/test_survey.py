"""Text is cleaned once: the survey keeps it, and the store has the bytes of text that was cleaned again."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_texts import han, sentence
from ropewalk.core.record import Document
from ropewalk.corpus.clean.quality import measure_text
from ropewalk.corpus.dedup.minhash import sign
from ropewalk.corpus.prepare import filters
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.filters import PASSAGE, Cuts, Filtered, Judged, cut_repeats
from ropewalk.corpus.prepare.find_repeats import RepeatSearch
from ropewalk.corpus.prepare.ledger import SourceLedger
from ropewalk.corpus.prepare.survey import read_survey, write_survey
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.text.reject import Reject
from ropewalk.corpus.text.short_texts import SHORT_CHARACTERS
from ropewalk.corpus.tokens.tokenizer import Tokenizer

CHAPTER = "".join(f"{sentence(900 + line, 12)}.\n" for line in range(12))
TEXTS = [
    *(sentence(n, 80) + "\n" + CHAPTER * (n % 5 == 0) + sentence(500 + n, 60) + han(n, 40) for n in range(10)),
    "short",
]


def spec_of(folder: Path) -> CorpusSpec:
    """A source with sections that stand twice, questions with answers, and conversations."""
    exam = {"text": TEXTS[3].split("\n")[0]}
    files: dict[str, list[Any]] = {
        "web": [{"text": text, "id": str(n)} for n, text in enumerate(TEXTS)],
        "pairs": [{"q": sentence(n, 12), "a": sentence(1000 + n, 40)} for n in range(8)],
        "exam": [exam],
    }
    for name, records in files.items():
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    sources = [
        {"name": "web", "path": str(folder / "web.jsonl"), "role": "general", "profile": "law"},
        {
            "name": "pairs",
            "path": str(folder / "pairs.jsonl"),
            "role": "instruction",
            "options": {"prompt_key": "q", "answer_key": "a"},
        },
    ]
    keys = {"store": str(folder / "store"), "sources": sources, "mix": {"web": 9, "pairs": 1}, "held_out": 0}
    return CorpusSpec.model_validate(
        {**keys, "repeated_sections": 1000, "decontaminate": [str(folder / "exam.jsonl")], "worker_count": 1}
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_each_text_is_cleaned_and_signed_once_and_again_only_without_its_survey(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    for name in ("clean_document", "sign", "sign_short", "sign_answers"):
        monkeypatch.setattr(filters, name, counted(getattr(filters, name), calls))
    made = []
    for name, times in (("kept", 1), ("lost", 2)):
        calls.clear()
        (tmp_path / name).mkdir()
        if name == "lost":
            monkeypatch.setattr(RepeatSearch, "survey_of", lambda *_: None)
        folder = build(spec_of(tmp_path / name), tokenizer=tokenizer, seed=0, folder=tmp_path / name / "corpus")
        once = {"clean_document": len(TEXTS) + 8, **SIGNED, "sign_answers": 8}
        assert calls == Counter({function: times * count for function, count in once.items()})
        made.append(files_of(tmp_path / name / "store"))
    assert made[0] == made[1] and len(made[0]) > 20 and not any(".shards" in name for name in made[0])
    dropped = json.loads((folder / "ledger.json").read_text())["web"]["dropped"]
    assert {"too short", "repeated section", PASSAGE} <= dropped.keys()


LONG = sum(len(text) > SHORT_CHARACTERS for text in TEXTS)
SIGNED = {"sign": LONG, "sign_short": len(TEXTS) - 1 - LONG}
"""Texts, but for the one that is dropped, by the function that signs them."""


def counted(function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        calls[function.__name__] += len(given[0]) if function.__name__ == "sign_short" else 1
        return function(*given)

    return call


def test_a_survey_gives_back_what_it_was_given(tmp_path: Path) -> None:
    source = Source(name="web", path="web", role="domain", language="zh")
    texts = ["一二三" * 50 + "\U0001f600", "", "tail\u2028 \x1c line\r"]
    judged = []
    for number, text in enumerate(texts):
        spans = ((1, 3), (5, 5)) if number == 0 else None
        document = Document(text, "web", "domain", "zh", f"d{number}", spans, {"place": "a, line 1", "masked": True})
        cut = (Reject("d1", PASSAGE, 7, "why", "a, line 2", "cut"),) if number == 1 else ()
        filtered = Filtered(document, measure_text(text), len(text.encode()), 2**64 - 1 - number, sign(text), cut)
        judged.append(Judged(1000 + number, document, filtered))
    bad = Reject("d3", "too short", 12, "why", "a, line 4", "天")
    judged.insert(1, Judged(12, bad, Filtered(bad, measure_text("天"))))
    judged.insert(2, Judged(3, replace(bad, reason="no text"), None))
    ledger = SourceLedger()
    write_survey(iter(judged), source, ledger=ledger, folder=tmp_path)
    again = list(read_survey(tmp_path, source))
    for before, after in zip(judged, again, strict=True):
        assert before[:2] == after[:2]
        if before.filtered is None or after.filtered is None:
            assert before.filtered is after.filtered
            continue
        assert (before.filtered.signature is None) == (after.filtered.signature is None)
        if before.filtered.signature is not None:
            assert np.array_equal(before.filtered.signature, after.filtered.signature)
        assert replace(before.filtered, signature=None) == replace(after.filtered, signature=None)
    assert ledger.read.documents == 5 and ledger.stored.documents == 3


def test_a_cut_leaves_answers_and_other_texts_alone() -> None:
    source = Source(name="web", path="web", role="domain", profile="law")
    text = sentence(1, 60)
    document = Document(text, "web", "domain", "en", "d")
    filtered = Filtered(document, measure_text(text), len(text), 7, sign(text))
    spans = {7: ((0, 10), (20, 25))}
    (cut,) = cut_repeats([Judged(9, document, filtered)], Cuts(spans), source)
    assert isinstance(cut.outcome, Document) and cut.outcome.text == text[10:20] + text[25:]
    assert cut.filtered is not None and cut.filtered.outcome == cut.outcome and cut.filtered.whole_bytes == len(text)
    answer = replace(document, loss_spans=((3, 9),))
    for kept, cuts in ((answer, Cuts(spans)), (document, Cuts({8: ((0, 10),)}))):
        (same,) = cut_repeats([Judged(9, kept, replace(filtered, outcome=kept))], cuts, source)
        assert same.outcome == kept
    (gone,) = cut_repeats([Judged(9, document, filtered)], Cuts({7: ((0, len(text) - 5),)}), source)
    assert isinstance(gone.outcome, Reject) and gone.outcome.why == f"in no other document: 5 characters of {len(text)}"
