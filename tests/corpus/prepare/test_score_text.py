"""Scores of clean text: columns of documents, bands that do not choose by length, and clear refusals."""

import json
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.document_records import DocumentRecords
from ropewalk.corpus.prepare.document_scores import _find_band, pick_documents
from ropewalk.corpus.prepare.ledger import SourceLedger
from ropewalk.corpus.prepare.score_text import compression, make_scorer
from ropewalk.corpus.prepare.tokenized import Tokenized
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer

DOCUMENTS = 24
COUNT = "def count(text, metadata):\n    return text.count('river')\n"


def build_scored(folder: Path, tokenizer: Tokenizer, *, name: str = "corpus", **keys: Any) -> Corpus:
    records = [{"text": sentence(n, 60), "id": f"d{n}"} for n in range(DOCUMENTS)]
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = {"name": "a", "path": str(folder / "a.jsonl"), "role": "general", "language": "en", **keys}
    spec = {"store": str(folder / "store"), "sources": [source], "mix": {"a": 1}, "held_out": 0, "worker_count": 1}
    return open_corpus(build(CorpusSpec.model_validate(spec), tokenizer=tokenizer, seed=0, folder=folder / name))


def test_a_module_of_the_working_folder_is_found(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the key says; the program `ropewalk` itself does not have that folder on Python's path."""
    (tmp_path / "scores_here.py").write_text(COUNT)
    monkeypatch.chdir(tmp_path)
    before = [*sys.path]
    assert str(tmp_path) not in before and "" not in before
    corpus = build_scored(tmp_path, tokenizer, score={"callable": "scores_here:count"})
    assert "scores" in (corpus.store("a") / "documents.jsonl").read_text().splitlines()[0] and sys.path == before


def test_a_function_and_gzip_select_documents_and_change_no_other_byte(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_scores.py").write_text(COUNT)
    monkeypatch.syspath_prepend(str(tmp_path))
    plain = build_scored(tmp_path, tokenizer, name="plain")
    score = {"gzip": True, "callable": "my_scores:count"}
    select = [{"column": "callable", "at_least": 1, "from_tokens": 0}]
    corpus = build_scored(tmp_path, tokenizer, score=score, select=select)
    expected = [n for n in range(DOCUMENTS) if "river" in sentence(n, 60)]
    assert corpus.train("a").chosen.tolist() == expected and 0 < len(expected) < DOCUMENTS
    for path in plain.store("a").iterdir():
        if path.name not in ("documents.jsonl", "manifest.json"):
            assert path.read_bytes() == (corpus.store("a") / path.name).read_bytes(), path.name
    lines = [json.loads(line) for line in (corpus.store("a") / "documents.jsonl").read_text().splitlines()]
    assert [line["scores"]["callable"] for line in lines] == [sentence(n, 60).count("river") for n in range(DOCUMENTS)]
    assert all(1 < line["scores"]["gzip"] < 10 for line in lines)
    (tmp_path / "my_scores.py").write_text(COUNT.replace("river", "stone"))
    with pytest.raises(UserError, match="the folder holds another corpus"):
        build_scored(tmp_path, tokenizer, score=score, select=select)


def test_windows_make_compression_independent_of_length() -> None:
    """A text of independent lines: of a whole document the ratio grows with its length, of windows it does not."""
    short, long = (" ".join(sentence(n, 700) for n in range(count)) for count in (1, 40))
    whole = [len(text) / len(zlib.compress(text.encode(), 6)) for text in (short, long)]
    ratios = [compression(Document(text, "a", "general", "en", "1")) for text in (short, long)]
    assert whole[1] / whole[0] > 1.1 and abs(ratios[1] / ratios[0] - 1) < 0.05
    assert compression(Document("", "a", "general", "en", "1")) == 0
    assert compression(Document("ab" * 40_000, "a", "general", "en", "1")) > 100
    assert 1 < compression(Document(han(1, 9000), "a", "general", "zh", "1")) < 5


def test_a_band_keeps_its_share_in_every_language_and_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = [(language, 1 << length) for language in (0, 1) for length in (10, 13, 17)]
    language, least = (np.repeat([cell[at] for cell in cells], 200) for at in (0, 1))
    tokens = least + rng.integers(0, least)
    values = rng.normal(2 + language + np.log2(least) / 5, 0.3)  # longer ones score higher
    stored = Tokenized(tmp_path, SourceLedger(), ("en", "zh"))
    np.save(tmp_path / "tokens.npy", tokens)
    np.save(tmp_path / "language.npy", language)
    lines = [{"id": f"d{n}", "text": "", "measures": None, "scores": {"gzip": v}} for n, v in enumerate(values)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = DocumentRecords(tmp_path, len(values), tmp_path / "offsets")

    def kept(**rule: Any) -> list[float]:
        source = Source.model_validate(
            {"name": "a", "path": "a", "role": "general", "score": "gzip", "select": [{"column": "gzip", **rule}]}
        )
        picked = pick_documents(source, stored, records)
        fit = np.ones(len(values), dtype=bool)
        fit[picked.unfit] = False
        if len(picked.unfit):
            assert "gzip" in picked.explain(int(picked.unfit[0]))
        return fit.reshape(len(cells), 200).mean(axis=1).tolist()

    assert kept(band=[20, 80], from_tokens=0) == pytest.approx([0.6] * 6, abs=0.02)
    assert kept(band=[20, 80], from_tokens=8192) == pytest.approx([1, 0.6, 0.6] * 2, abs=0.02)
    assert kept(band=[0, 50], from_tokens=0, to_tokens=8192, language="zh") == pytest.approx([1, 1, 1, 0.5, 1, 1])


def test_a_band_keeps_its_share_of_small_cells_together() -> None:
    """There are few of the longest documents, and each power of two of their lengths is a cell of its own."""
    sizes = range(1, 16)
    cells = np.repeat(np.arange(15), sizes)
    values = np.concatenate([np.arange(size) + 100.0 for size in sizes])
    low, high = _find_band((20, 80), values, np.ones(len(values), dtype=bool), cells)
    kept = np.bincount(cells, (values >= low) & (values <= high))
    assert kept[:3].tolist() == [1, 2, 1] and kept.sum() == 0.6 * len(values)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def count(text, metadata):\n    return float('nan')\n", "a score is no number"),
        ("def count(text, metadata):\n    return [1.0]\n", "a score is no number"),
        ("def count(text, metadata):\n    return 10**400\n", "a score is no number"),
        ("def count(text):\n    return 1\n", "document .*\n.*TypeError: count\\(\\) takes 1 positional"),
        (
            "def count(text, metadata):\n    return {}[0]\n",
            "the function that scores failed(.|\n)*KeyError: 0 .*, line 2",
        ),
        (
            "def count(text, metadata):\n    raise SystemExit(3)\n",
            "the function that scores failed(.|\n)*SystemExit: 3",
        ),
        ("import no_such_library\n", "cannot be loaded(.|\n)*No module named 'no_such_library' .*, line 1"),
        ("def count(:\n", "cannot be loaded(.|\n)*SyntaxError: invalid syntax .*, line 1"),
        ("def other(text, metadata):\n    return 1\n", "no such function"),
        (None, "no such module"),
    ],
)
def test_a_faulty_function_is_refused_and_nothing_is_written(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, told: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"faulty_{abs(hash(code))}"
    if code is not None:
        (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(UserError, match=told):
        build_scored(tmp_path, tokenizer, score={"callable": f"{name}:count"})
    assert not (tmp_path / "corpus").exists()


def test_a_package_that_cannot_be_loaded_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text("{}[0]\n")
    (tmp_path / "broken_package" / "scores.py").write_text(COUNT)
    with pytest.raises(UserError, match=r"broken_package\.scores cannot be loaded(.|\n)*KeyError: 0 .*, line 1"):
        scorer_of(callable="broken_package.scores:count")


def scorer_of(**score: Any) -> Any:
    source = Source.model_validate({"name": "a", "path": "a", "role": "general", "score": score})
    return make_scorer(source)


def test_models_are_asked_through_their_libraries_and_refused_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.bin"
    with pytest.raises(UserError, match="a model to score with is not there"):
        scorer_of(kenlm=str(model))
    model.write_bytes(b"")
    for library, keys in (("fasttext", {"label": "__label__hq"}), ("kenlm", {})):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(UserError, match=f"the library {library} is not installed") as caught:
            scorer_of(**{library: str(model)}, **keys)
        assert f"ropewalk[{library}]" in caught.value.fix
    asked: list[str] = []

    class Model:
        def __init__(self, path: str) -> None:
            assert path == str(model)

        def predict(self, text: str, k: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
            assert "\n" not in text and k == -1
            return ("__label__lq", "__label__hq"), (0.75, 0.25)

        def score(self, line: str, bos: bool, eos: bool) -> float:
            asked.append(line)
            return -2.0 * (line.count(" ") + 2)

    monkeypatch.setitem(sys.modules, "fasttext", types.SimpleNamespace(load_model=Model))
    monkeypatch.setitem(sys.modules, "kenlm", types.SimpleNamespace(Model=Model))
    text = Document("天 地人\n\na b", "a", "general", "zh", "1")
    scores = scorer_of(fasttext=str(model), label="__label__hq", kenlm=str(model))(text)
    assert scores == {"fasttext": 0.25, "kenlm": pytest.approx(100.0)} and asked == ["天 地 人", "a b"]
    with pytest.raises(UserError, match="has no such label") as caught:
        scorer_of(fasttext=str(model), label="__label__best")(text)
    assert "__label__hq" in caught.value.why


@pytest.mark.parametrize(
    "keys",
    [
        {"score": {}},
        {"score": {"fasttext": "a.bin"}},
        {"score": {"callable": "count"}},
        {"score": {"gzip": True, "version": "2"}},
        {"score": "zip"},
        {"score": "gzip", "tokens": "megatron"},
        {"provenance": {"address": "url"}, "tokens": "megatron"},
        {"select": [{"column": "gzip", "band": [80, 20]}]},
        {"select": [{"column": "gzip", "band": [20, 80], "from_tokens": 10, "to_tokens": 10}]},
    ],
)
def test_rules_that_say_nothing_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate({"name": "a", "path": "a", "role": "general", **keys})


def test_some_records_are_those_of_all(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"id": f"d{n}", "scores": {"dropped": n}} for n in range(40)]
    stored = np.arange(40) % 3 > 0
    for number in np.flatnonzero(~stored).tolist():
        lines[number] = {"id": f"d{number}", "dropped": "too short"}
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = DocumentRecords(tmp_path, int(stored.sum()), tmp_path / "offsets")
    every = [*records]
    chosen = np.arange(len(every)) % 5 == 2
    assert [*records.read_some(chosen)] == [(n, record) for n, record in enumerate(every) if chosen[n]]
    assert [records.read(n) for n in range(len(every))] == every == [line for line in lines if "scores" in line]


def test_a_function_is_found_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the command `ropewalk`: its path begins with the folder of the command, not with the one it runs in."""
    (tmp_path / "scores_from_here.py").write_text(COUNT)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(Path.cwd()))])
    monkeypatch.chdir(tmp_path)
    score = scorer_of(callable="scores_from_here:count")
    assert score(Document("a river, a river", "a", "general", "en", "1")) == {"callable": 2}
