"""What is counted of a corpus, against its own rows counted by hand; what other weights would give, against rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_texts import sentence
from ropewalk.core.read_json import read_written_lines
from ropewalk.corpus.inspect.duplicates import show_copies
from ropewalk.corpus.inspect.statistics import CONTEXTS, count_context, survey_corpus
from ropewalk.corpus.inspect.what_if import format_weighing, weigh
from ropewalk.corpus.mix.dataset import open_dataset
from ropewalk.corpus.mix_rules import MixRules
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens import corpus_folder
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer

MIX = {"general": 7, "domain": 2, "instruction": 1}


def test_context_is_counted_token_by_token() -> None:
    lengths = np.array([1, 8192, 8193, 40_000, 131_073], dtype=np.int64)
    counted = count_context(lengths)
    before = np.concatenate([np.arange(length) for length in lengths])
    assert counted == {"tokens": len(before), **{str(least): int((before >= least).sum()) for least in CONTEXTS}}


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of records that are read for ids, each time: one can have ten million lines."""
    passes: list[Path] = []

    def read(path: Path, *given: Any, **keys: Any) -> Iterator[Any]:
        passes.append(path)
        return read_written_lines(path, *given, **keys)

    monkeypatch.setattr(corpus_folder, "read_written_lines", read)
    return passes


def test_a_survey_is_json_and_agrees_with_the_rows(
    corpus: Corpus, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(corpus, mix=MIX, context_tokens=512, sequences=60, seed=0, stage=0, max_repeats=4)
    passes = count_passes(monkeypatch)
    counted = survey_corpus(corpus, {0: dataset}, tokenizer=tokenizer, seed=0)
    assert len(passes) == len({each["source"] for each in counted["stages"][0]["sequences_shown"]}) < 6
    assert json.loads(json.dumps(counted)) == counted
    stage, batch = counted["stages"][0], dataset.batch(0, 60)
    assert stage["tokens"] == int((batch.document >= 0).sum()) and stage["padding_tokens"] == dataset.padding_tokens
    assert stage["segments"] == int((batch.document.max(axis=1) + 1).sum())
    assert stage["prefixes"]["tokens"]["han"][-1] == stage["realised"]["han"] == int((batch.source == 1).sum())
    assert stage["most_sequences_off"] <= 1
    for shown in stage["sequences_shown"]:
        document = batch.document[shown["sequence"]]
        assert shown["lengths"] == np.bincount(document[document >= 0]).tolist()
        tokens = batch.tokens[shown["sequence"]]
        whole = " ".join(tokenizer.decode(tokens[document == 0]).strip("\ufffd").split())
        assert whole.startswith(shown["segments"][0]["begins"]) and whole.endswith(shown["segments"][0]["ends"])
    assert sum(sum(each["tokens"]) for each in counted["lengths"]["sources"].values()) == sum(
        facts["tokens"] for facts in counted["sources"].values()
    )


def test_weights_are_weighed_as_rows_would_come_out(corpus: Corpus) -> None:
    rules = MixRules(lengths={0: 1, 300: 3})
    found = weigh(corpus, MIX, context_tokens=512, tokens=400 * 512, max_repeats=99, rules=rules)
    dataset = open_dataset(
        corpus, mix=MIX, context_tokens=512, sequences=400, seed=0, stage=0, max_repeats=99, rules=rules
    )
    total = sum(use.tokens for use in dataset.strata)
    for part, use in zip(found["strata"], dataset.strata, strict=True):
        assert part["name"] == use.name and part["share"] == use.planned
        assert use.tokens / total == pytest.approx(part["share"], abs=2 * 512 / total)
    assert "han/300" in format_weighing(found) and found["dry"] == []
    tight = weigh(corpus, MIX, context_tokens=512, tokens=400 * 512, max_repeats=0.1)
    assert set(tight["dry"]) == {"prose", "han", "pairs"} and "more than 0.1 times" in format_weighing(tight)


def test_copies_are_shown_beside_what_was_kept(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [sentence(n, 300) for n in range(20)]
    near = texts[3].replace(texts[3].split()[200], "elsewhere", 1)
    records = [*texts, texts[5], near + " and so on"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": str(n)}) + "\n" for n, text in enumerate(records)))
    spec = CorpusSpec.model_validate(
        {
            "store": str(tmp_path / "store"),
            "sources": [{"name": "a", "path": str(path), "role": "general"}],
            "mix": {"a": 1},
            "held_out": 0,
        }
    )
    corpus = open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    passes = count_passes(monkeypatch)
    shown = show_copies(corpus, tokenizer=tokenizer, seed=0)
    assert len(passes) == 1
    (exact,), (close,) = shown["exact duplicate"], shown["near duplicate"]
    assert {exact["dropped"]["id"], exact["kept"]["id"]} == {"5", "20"} and exact["similarity"] is None
    assert (close["dropped"]["id"], close["kept"]["id"]) == ("3", "21") and 0.8 < close["similarity"] < 1
    assert "elsewhere" in close["kept"]["text"] and "elsewhere" not in close["dropped"]["text"]
