"""The page about a corpus: every section, nothing that runs, and no text that becomes markup."""

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ropewalk.report.corpus import write_corpus_page

AMOUNT = {"documents": 0, "bytes": 0, "tokens": 0}
HOSTILE = "</small><script>alert(1)</script> \x1b[31m \u202e{{ 7*7 }}"


def amount(documents: int, size: int, tokens: int) -> dict[str, int]:
    return {"documents": documents, "bytes": size, "tokens": tokens}


def survey(name: str = "law") -> dict[str, Any]:
    """A corpus of one source, as corpus/inspect/statistics counts it."""
    context = {"tokens": 900, "8192": 90, "32768": 9, "131072": 0}
    facts = {"role": "domain", "license": None, "documents": 9, "tokens": 900, "held_out_documents": 1,
             "held_out_tokens": 100, "languages": {"zh": {"documents": 9, "tokens": 900}}}  # fmt: skip
    use = {"name": f"{name}/zh/8Ki", "source": name, "language": "zh", "shortest_tokens": 8192, "planned": 1.0,
           "tokens": 1800, "held_tokens": 900, "repeats": 2.0, "cut_documents": 3, "cut_tokens": 30}  # fmt: skip
    piece = {"id": name, "start": 0, "tokens": 500, "of": 600, "begins": f"first words {name}", "ends": "last words"}
    pair = {"source": name, "id": name, "tokens": 5, "text": f"one text {name}"}
    return {
        "digest": "d" * 32,
        "vocabulary": 400,
        "ledger": {
            name: {"read": amount(12, 1200, 0), "stored": amount(11, 1100, 1007), "trimmed_bytes": 50,
                   "dropped": {"too short": amount(1, 50, 0), "near duplicate": amount(1, 100, 7)},
                   "train": amount(9, 900, 900), "held_out": amount(1, 100, 100)}
        },
        "sources": {name: facts},
        "lengths": {"from_tokens": [0, 64, 128], "sources": {name: {"documents": [1, 8, 0], "tokens": [100, 800, 0]}}},
        "context": {name: context},
        "stages": [
            {"stage": 0, "context_tokens": 1024, "sequences": 2, "tokens": 1800, "padding_tokens": 248,
             "faults": [f"{name} has rows without a label"],
             "planned": {name: 1.0}, "realised": {name: 1800}, "repeats": {name: 2.0},
             "strata": [use], "segments": 4, "context": {**context, "tokens": 1800}, "most_sequences_off": 0.5,
             "prefixes": {"sequences": [1, 2], "tokens": {name: [900, 1800]}},
             "sequences_shown": [{"sequence": 1, "source": name, "lengths": [500, 400], "segments": [piece]}]}
        ],
        "copies": {"near duplicate": [{"dropped": pair, "kept": pair, "similarity": 0.9}],
                   "exact duplicate": [{"dropped": pair, "kept": pair, "similarity": None}]},
        "columns": {name: [{"column": "gain", "documents": 3, "percentiles": {"50": 0.5}, "edges": [0.0, 0.5, 1.0],
                            "counts": [1, 2], "best": [], "worst": [],
                            "around": [{"bound": "at_least", "value": 0.4, "above": [],
                                        "below": [{"id": name, "value": 0.3125, "text": f"score of {name}"}]}]}]},
        "card": {"origin": [f"{name}: data/law; dates: 2026-01-01 to 2026-02-01"], "filters": [f"{name}: profile law"]},
    }  # fmt: skip


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, tuple(name for name, _ in attrs)))


def write(tmp_path: Path, counted: dict[str, Any]) -> str:
    write_corpus_page(tmp_path / "corpus.html", "run", counted)
    return (tmp_path / "corpus.html").read_text()


def test_every_section_is_there(tmp_path: Path) -> None:
    page = write(tmp_path, survey())
    sections = re.findall(r'<section id="([\w-]+)">', page)
    assert sections == [
        "summary",
        "ledger",
        "lengths",
        "languages",
        "mix-0",
        "copies",
        "scores",
        "sequences-0",
        "licences",
        "origin",
    ]
    assert (
        "The ledger balances: every document, byte and token has an entry. No source differs by more than 0.50 "
        "sequences" in page
    )
    for words in (
        "500 tokens from 0 of 600",
        "and 1 more",
        "law has rows without a label",
        "1 warning about the content of sequences",
        "not stated",
        "same text",
        "split although they fit",
        "> 32Ki",
        "below at_least 0.4",
        "0.3125",
        "dates: 2026-01-01 to 2026-02-01",
        "filter: law: profile law",
    ):
        assert words in page or words.replace(">", "&gt;") in page, words
    assert 'class="run c0"' in page and page.count("<svg") == 4


@pytest.mark.parametrize("unit", ["documents", "bytes", "tokens"])
def test_a_ledger_that_does_not_balance_is_told(tmp_path: Path, unit: str) -> None:
    broken = survey()
    broken["ledger"]["law"]["train"][unit] -= 1
    assert "The ledger does not balance: law." in write(tmp_path, broken)


def test_a_mix_that_is_off_is_told(tmp_path: Path) -> None:
    off = survey()
    off["stages"][0]["most_sequences_off"] = 1.5
    page = write(tmp_path, off)
    assert 'class="verdict fail"' in page and "1.50 sequences" in page


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    harmless, hostile = write(tmp_path, survey("name")), write(tmp_path, survey(HOSTILE))
    assert Tags(harmless).seen == Tags(hostile).seen
    assert "script" not in {tag for tag, _ in Tags(hostile).seen}
    assert "\x1b" not in hostile and "\u202e" not in hostile and "49" not in re.findall(r"\{\{ (\S+) ", hostile)


def test_a_corpus_without_copies_says_so(tmp_path: Path) -> None:
    plain = copy.deepcopy(survey())
    del plain["copies"]
    assert "No document was dropped as a copy of another." in write(tmp_path, plain)


def test_masked_answers_are_told(tmp_path: Path) -> None:
    counted = survey()
    counted["ledger"]["law"]["masked_answers"] = 1234
    assert "law: PII was masked in the answers of 1,234 documents" in write(tmp_path, counted)
