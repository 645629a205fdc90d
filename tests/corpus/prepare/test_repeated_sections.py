"""Sections that stand twice are cut where they stand second, against plain Python; nothing is lost with them."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_texts import HAN, WORDS, han, sentence
from ropewalk.core.record import Document
from ropewalk.corpus.dedup.external_sort import PairSpool, any_of_each
from ropewalk.corpus.inspect.dropped import format_reasons, inspect_corpus
from ropewalk.corpus.prepare import repeated_sections
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.filters import Cuts
from ropewalk.corpus.prepare.repeated_sections import find_pairs
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer


def prose(seed: int, lines: int) -> str:
    return "".join(f"{sentence(seed * 10_000 + line, 12)}.\n" for line in range(lines))


def chinese(seed: int, sentences: int) -> str:
    """One paragraph without a line break."""
    return "".join(han(seed * 10_000 + number, 30) + "。" for number in range(sentences))


def build_texts(
    folder: Path, tokenizer: Tokenizer, texts: dict[str, list[str]], *, roles: dict[str, str] | None = None, **keys: Any
) -> Corpus:
    sources = []
    for name, documents in texts.items():
        path = folder / f"{name}.jsonl"
        lines = [json.dumps({"text": text, "id": f"{name}{n}"}, ensure_ascii=False) for n, text in enumerate(documents)]
        path.write_text("\n".join(lines), encoding="utf-8")
        role = (roles or {}).get(name, "general")
        sources.append({"name": name, "path": str(path), "role": role, "profile": "instruction"})
    spec = {"store": str(folder / "store"), "sources": sources, "mix": dict.fromkeys(texts, 1), "held_out": 0}
    built = build(CorpusSpec.model_validate({**spec, **keys}), tokenizer=tokenizer, seed=0, folder=folder / "corpus")
    return open_corpus(built)


def read_all(corpus: Corpus, source: str, tokenizer: Tokenizer) -> list[str]:
    texts = (tokenizer.decode(tokens) for tokens in corpus.train(source))
    return [text.removeprefix("<|begin|>").removesuffix("<|endoftext|>") for text in texts]


def test_a_chapter_in_two_books_stays_in_the_longer_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chapter = prose(7, 40)
    books = [prose(1, 60) + chapter + prose(2, 60), prose(3, 80) + chapter + prose(4, 80), chapter]
    corpus = build_texts(tmp_path, tokenizer, {"a": books}, repeated_sections=1000)
    texts = read_all(corpus, "a", tokenizer)
    assert texts[1] == books[1].strip() and len(texts) == 2
    # A line at the seam may go either way: only pairs of lines are known to repeat.
    assert texts[0].startswith(prose(1, 59)) and texts[0].endswith(prose(2, 60).strip()[100:])
    assert chapter not in texts[0] and len(texts[0]) <= len(prose(1, 60) + prose(2, 60))
    dropped = corpus.ledger["a"]["dropped"]
    assert dropped["repeated section"]["documents"] == 1
    assert dropped["repeated section"]["bytes"] == pytest.approx(2 * len(chapter), rel=0.02)
    (reason,) = inspect_corpus(corpus)
    assert reason.examples[0].id == "a2" and "in no other document: " in format_reasons([reason], corpus.ledger)


def test_a_chapter_twice_in_one_book_stays_once_also_without_line_breaks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chapter = chinese(7, 60)
    book = chinese(1, 50) + chapter + chinese(2, 50) + chapter + chinese(3, 50)
    corpus = build_texts(tmp_path, tokenizer, {"a": [book, chinese(4, 30)]}, repeated_sections=1000)
    (text, _) = read_all(corpus, "a", tokenizer)
    assert text.startswith(chinese(1, 50) + chapter + chinese(2, 50)[:100]) and text.count(chapter) == 1
    assert text.endswith(chinese(3, 50)) and len(book) - len(text) == pytest.approx(len(chapter), abs=70)


def test_the_role_decides_before_the_length_and_sources_see_each_other(tokenizer: Tokenizer, tmp_path: Path) -> None:
    chapter = prose(7, 40)
    texts = {"general": [prose(1, 300) + chapter], "law": [prose(2, 20) + chapter]}
    texts = {"web": texts["general"], "law": texts["law"]}
    corpus = build_texts(tmp_path, tokenizer, texts, roles={"law": "domain"}, repeated_sections=1000)
    assert read_all(corpus, "law", tokenizer) == [texts["law"][0].strip()]
    assert len(read_all(corpus, "web", tokenizer)[0]) < len(prose(1, 300)) + 200


@pytest.mark.parametrize("near_duplicates", [None, 0.7, 0.9])
def test_nothing_is_cut_whose_original_is_dropped(
    tokenizer: Tokenizer, tmp_path: Path, near_duplicates: float | None
) -> None:
    """A revision and what it revises share most sections; the longer one stays whole, whatever copies are kept."""
    first = prose(1, 100)
    longer = first.replace(prose(1, 1), prose(5, 2))
    corpus = build_texts(
        tmp_path,
        tokenizer,
        {"a": [first, longer, prose(9, 50)]},
        repeated_sections=1000,
        near_duplicates=near_duplicates,
    )
    texts = read_all(corpus, "a", tokenizer)
    assert longer.strip() in texts and prose(9, 50).strip() in texts
    assert (first.strip() in texts) == (near_duplicates is None)


def test_short_repeats_and_instructions_stay(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shared = prose(7, 8)
    texts = {"web": [prose(1, 90) + shared, prose(2, 90) + shared]}
    corpus = build_texts(tmp_path, tokenizer, texts, repeated_sections=1000)
    assert read_all(corpus, "web", tokenizer) == [text.strip() for text in texts["web"]]
    (tmp_path / "other").mkdir()
    asked = {"chat": [prose(1, 90) + prose(3, 90), prose(2, 90) + prose(3, 90)]}
    corpus = build_texts(tmp_path / "other", tokenizer, asked, roles={"chat": "instruction"}, repeated_sections=100)
    assert len(read_all(corpus, "chat", tokenizer)) == 2 and not corpus.ledger["chat"]["dropped"]


def test_of_text_with_answers_nothing_is_cut(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shared = prose(3, 90)
    texts = [prose(1, 90) + shared, prose(2, 90) + shared]
    path = tmp_path / "asked.jsonl"
    records = [{"text": text, "loss_spans": [[len(text) - 20, len(text)]]} for text in texts]
    path.write_text("\n".join(map(json.dumps, records)))
    source = {"name": "asked", "path": str(path), "role": "domain", "profile": "instruction"}
    keys = {"store": str(tmp_path / "store"), "sources": [source], "mix": {"asked": 1}, "held_out": 0}
    spec = CorpusSpec.model_validate({**keys, "repeated_sections": 100})
    corpus = open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    assert [text.strip() for text in read_all(corpus, "asked", tokenizer)] == [text.strip() for text in texts]


def plain_units(text: str) -> list[str]:
    units, start = [], 0
    for at, sign in enumerate(text):
        if sign in "\n。！？" or (sign in ".!?" and text[at + 1 : at + 2] == " "):
            units.append(text[start : at + 1])
            start = at + 1
    return [*units, text[start:]] if text[start:] or not units else units


@pytest.mark.parametrize("seed", range(30))
def test_pairs_are_those_of_plain_python(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    pieces = [*WORDS[:6], *HAN[:6], "。", "！", "\n", ". ", "? ", "\n\n", ".", " "]
    text = "".join(rng.choice(pieces, 200))
    _, ends = find_pairs(text)
    assert ends[-1] == len(text) and (np.diff(ends) > 0).all()
    borders = np.cumsum([len(unit) for unit in plain_units(text)])
    assert set(ends.tolist()) <= set(borders.tolist())
    numbers, _ = find_pairs(text + "\n" + text)
    half, _ = find_pairs(text)
    assert np.isin(half, numbers).mean() > 0.9
    for characters in (1, 9, 100):  # a long text is hashed part by part
        monkeypatch.setattr(repeated_sections, "_PART_CHARACTERS", characters)
        assert all(np.array_equal(*pair) for pair in zip(find_pairs(text), (half, ends), strict=True))


def test_the_spool_remembers_what_a_dictionary_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.corpus.dedup.external_sort._FILE_RECORDS", 100)
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 300, size=rng.integers(0, 40)).astype(np.uint64) << np.uint64(55) for _ in range(80)]
    rank, counts = rng.integers(0, 20, 80).astype(np.uint64), rng.random(80) < 0.7
    borders = np.cumsum([0, *map(len, documents)]).tolist()
    spool = PairSpool(tmp_path / "spool", borders[-1])
    for document, numbers in enumerate(documents):
        if counts[document]:
            place = np.arange(borders[document], borders[document + 1])
            spool.add(numbers, rank=np.full(len(numbers), rank[document]), place=place)
    marks = spool.find_repeated()
    seen: set[int] = set()
    for document in np.argsort(rank, kind="stable").tolist():
        expected = []
        for number in documents[document].tolist():
            expected.append(bool(counts[document]) and number in seen)
            if counts[document]:
                seen.add(number)
        assert marks.read(borders[document], borders[document + 1]).tolist() == expected
    lengths = np.diff(borders)
    flags = any_of_each(marks.read(0, borders[-1]), lengths)
    assert flags.tolist() == [marks.open()[a:b].any() for a, b in pairwise(borders)]


def test_cuts_take_their_spans() -> None:
    assert Cuts({3: ((1, 2), (4, 6))}).apply("abcdefgh", 3) == "acdgh"
    assert Cuts({3: ((0, 8),)}).apply("abcdefgh", 2) == "abcdefgh" and Cuts().digest is None
    cuts = Cuts({3: ((1, 2), (4, 6)), 1 << 63: ((0, 8),)})
    assert Cuts.from_json(json.loads(json.dumps(cuts.to_json()))) == cuts


def test_a_document_knows_where_it_was_read(write_jsonl: Callable[..., Path]) -> None:
    from ropewalk.corpus.read.source import read_source
    from ropewalk.corpus.spec import Source

    path = write_jsonl("a.jsonl", [{"text": "x" * 20, "id": "a"}, {"text": "天", "id": "b"}])
    source = Source.model_validate({"name": "s", "path": str(path), "role": "general"})
    places = [item.metadata["place"] for item in read_source(source, seed=0) if isinstance(item, Document)]
    assert places == ["a.jsonl, line 1, byte 0", f"a.jsonl, line 2, byte {len(path.read_bytes().splitlines()[0]) + 1}"]
