"""Long documents are chosen by columns, as a decision on indices that the ledger counts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from made_texts import WORDS, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.clean.long_document_quality import find_length_facts
from ropewalk.corpus.inspect.dropped import format_columns, inspect_corpus, read_columns
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.prepare.value_pages import _count_bins
from ropewalk.corpus.selection_rules import Selection
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer

DOCUMENTS = 40


def build_scored(
    folder: Path, tokenizer: Tokenizer, select: list[dict[str, Any]], *, name: str = "corpus", first_id: int = 0
) -> Corpus:
    lines = [{"text": sentence(n, 400), "id": f"d{n}"} for n in range(DOCUMENTS)]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = [{"id": f"d{first_id + n}", "source": "a", "gain": n / DOCUMENTS} for n in range(30)]
    (folder / "scores.jsonl").write_text("".join(json.dumps(score) + "\n" for score in scores))
    source = {"name": "a", "path": str(folder / "a.jsonl"), "role": "general", "language": "en"}
    spec = {
        "store": str(folder / "store"),
        "sources": [{**source, "scores": str(folder / "scores.jsonl"), "select": select}],
        "mix": {"a": 1},
        "held_out": 0,
    }
    return open_corpus(build(CorpusSpec.model_validate(spec), tokenizer=tokenizer, seed=0, folder=folder / name))


def test_a_threshold_drops_counts_and_explains(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = build_scored(tmp_path, tokenizer, [{"column": "gain", "at_least": 0.5, "from_tokens": 0}])
    # 20 are below, and the ten without a score stay.
    assert len(corpus.train("a")) == 20
    assert corpus.ledger["a"]["dropped"]["not selected"]["documents"] == 20
    (reason,) = inspect_corpus(corpus)
    assert reason.reason == "not selected" and len(reason.examples) == 20
    assert {example.why for example in reason.examples if example.id == "d10"} == {"gain 0.25 below 0.5"}
    (ends,) = read_columns(corpus)["a"]
    assert [each["id"] for each in ends["best"]] == ["d29", "d28", "d27", "d26", "d25"]
    assert [each["id"] for each in ends["worst"]] == ["d0", "d1", "d2", "d3", "d4"]
    (around,) = ends["around"]
    assert around["bound"] == "at_least" and around["value"] == 0.5 and ends["documents"] == sum(ends["counts"]) == 30
    assert [each["id"] for each in around["below"]] == ["d19", "d18", "d17", "d16", "d15"]
    assert [each["id"] for each in around["above"]] == ["d20", "d21", "d22", "d23", "d24"]
    assert "a: gain, below at_least 0.5\n  0.475  d19" in format_columns(read_columns(corpus))
    assert "best by gain" in format_columns(read_columns(corpus)) and "d29" in format_columns(read_columns(corpus))


def test_two_rules_on_one_column_are_one_distribution(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Each threshold shows documents that its own rule judges: here those of one language, and there is no other."""
    rules: list[dict[str, Any]] = [{"column": "gain", "at_least": low, "from_tokens": 0} for low in (0.1, 0.5)]
    rules.append({"column": "gain", "at_most": 0.6, "from_tokens": 0, "language": "zh"})
    (page,) = read_columns(build_scored(tmp_path, tokenizer, rules))["a"]
    assert page["documents"] == sum(page["counts"]) == 30
    assert [(each["bound"], each["value"], each["below"][0]["id"]) for each in page["around"]] == [
        ("at_least", 0.1, "d3"),
        ("at_least", 0.5, "d19"),
    ]


def test_a_rule_that_judges_no_document_is_told(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = build_scored(tmp_path, tokenizer, [{"column": "gain", "at_least": 0.5}])
    assert len(corpus.train("a")) == 40
    assert "source a: select gain judges none of 40 documents: they are shorter" in capsys.readouterr().err


def test_another_threshold_tokenises_nothing_again(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_scored(tmp_path, tokenizer, [])
    assert "is not read: no rule of `select` uses it" in capsys.readouterr().err
    monkeypatch.setattr(Tokenizer, "encode_documents", lambda *_: pytest.fail("tokenised again"))
    rules = [{"column": "gain", "at_least": 0.25, "at_most": 0.5, "from_tokens": 0}]
    assert len(build_scored(tmp_path, tokenizer, rules, name="other").train("a")) == 11 + 10


def build_two(folder: Path, tokenizer: Tokenizer, first: dict[str, Any], second: dict[str, Any]) -> Corpus:
    """The same four texts d0 to d3 as domain source a and as general source b, with scores 0 to 3."""
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": sentence(n, 60), "id": f"d{n}"}) + "\n" for n in range(4)))
    (folder / "scores.jsonl").write_text("".join(json.dumps({"id": f"d{n}", "gain": n}) + "\n" for n in range(4)))
    (folder / "none.jsonl").write_text(json.dumps({"id": "d3", "gain": 3}) + "\n")
    sources = [
        {"name": "a", "path": str(path), "role": "domain", "scores": str(folder / "scores.jsonl"), **first},
        {"name": "b", "path": str(path), "role": "general", **second},
    ]
    spec = {"store": str(folder / "store"), "sources": sources, "mix": {"domain": 1, "general": 1}, "held_out": 0}
    return open_corpus(build(CorpusSpec.model_validate(spec), tokenizer=tokenizer, seed=0, folder=folder / "corpus"))


def _read_whys(folder: Path, source: str) -> list[str]:
    return [json.loads(line)["why"] for line in (folder / "corpus" / source / "dropped.jsonl").read_text().splitlines()]


AT_LEAST_2: dict[str, Any] = {"select": [{"column": "gain", "at_least": 2, "from_tokens": 0}]}


def test_a_text_that_one_source_leaves_out_stays_in_another(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = build_two(tmp_path, tokenizer, AT_LEAST_2, {})
    assert corpus.train("a").chosen.tolist() == [2, 3] and corpus.train("b").chosen.tolist() == [0, 1]
    assert _read_whys(tmp_path, "a") == [f"gain {n} below 2" for n in (0, 1)]
    assert _read_whys(tmp_path, "b") == [f"100% like d{n} of a, which is kept" for n in (2, 3)]


@pytest.mark.parametrize("uses_select", [True, False])
def test_a_corpus_of_earlier_rules_of_select_is_refused(
    uses_select: bool, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """In such a corpus d0 and d1 are in no source, and nothing that it says of itself shows it."""
    first = AT_LEAST_2 if uses_select else {}
    manifest = build_two(tmp_path, tokenizer, first, {}).folder / "manifest.json"
    held = json.loads(manifest.read_text())
    a, b = held["inputs"]["corpus"]["sources"]
    assert a.pop("selects", None) == (2 if uses_select else None) and "selects" not in b
    del held["digest"]
    manifest.write_text(json.dumps(held))
    if uses_select:
        with pytest.raises(UserError, match=r"another corpus[\s\S]*source a: select: made by earlier rules"):
            build_two(tmp_path, tokenizer, first, {})
    else:
        build_two(tmp_path, tokenizer, first, {})


def test_a_copy_without_a_score_does_not_replace_one_that_is_left_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """`corpus score` scores what is trained on, so the copies that were dropped before have no score."""
    corpus = build_two(tmp_path, tokenizer, AT_LEAST_2, {"scores": str(tmp_path / "none.jsonl"), **AT_LEAST_2})
    assert corpus.train("a").chosen.tolist() == [2, 3] and len(corpus.train("b")) == 0
    whys = [f"100% like d{n} of a, which is {'kept' if n >= 2 else 'not selected'}" for n in range(4)]
    assert _read_whys(tmp_path, "b") == whys


@pytest.mark.parametrize(("rule", "kept"), [({"at_least": 2}, [1]), ({"at_least": 4}, [])])
def test_of_the_copies_of_one_source_one_that_passes_stays(
    tokenizer: Tokenizer, tmp_path: Path, rule: dict[str, Any], kept: list[int]
) -> None:
    path, text = tmp_path / "a.jsonl", sentence(1, 60)
    path.write_text(
        "".join(json.dumps({"text": text + end, "id": f"d{n}"}) + "\n" for n, end in enumerate([" so", "", ""]))
    )
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps({"id": f"d{n}", "gain": 1 + n}) + "\n" for n in range(3)))
    source = {"name": "a", "path": str(path), "role": "domain", "scores": str(tmp_path / "scores.jsonl")}
    source["select"] = [{"column": "gain", "from_tokens": 0, **rule}]
    spec = {"store": str(tmp_path / "store"), "sources": [source], "mix": {"a": 1}, "held_out": 0}
    corpus = open_corpus(
        build(CorpusSpec.model_validate(spec), tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    )
    assert corpus.train("a").chosen.tolist() == kept


def test_values_with_hardly_a_number_between_them_are_counted() -> None:
    held = np.array([0.3, 0.1 + 0.2, 0.1 + 0.2])
    counts, edges = _count_bins(held)
    assert counts.tolist() == [3] and edges.tolist() == [0.3, 0.1 + 0.2]
    spread = np.random.default_rng(0).normal(size=500)
    for values in (spread, spread[:1], np.full(9, 0.3), spread[:0]):
        for mine, numpys in zip(_count_bins(values), np.histogram(values, bins=40), strict=True):
            assert np.array_equal(mine, numpys)


def test_a_weight_is_a_chance(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = build_scored(tmp_path, tokenizer, [{"column": "gain", "weigh": True, "from_tokens": 0}])
    kept = corpus.train("a").chosen
    scored = kept[kept < 30]
    assert 8 < len(scored) < 25 and len(kept) - len(scored) == 10
    assert np.mean(scored) > 16  # of all it would be 14.5; higher gains are kept more often
    again = build_scored(tmp_path, tokenizer, [{"column": "gain", "weigh": True, "from_tokens": 0}], name="again")
    assert again.train("a").chosen.tolist() == kept.tolist()


def test_short_documents_are_left_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert len(build_scored(tmp_path, tokenizer, [{"column": "gain", "at_least": 0.5}]).train("a")) == DOCUMENTS


def test_a_column_that_nobody_has_is_an_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document has the column"):
        build_scored(tmp_path, tokenizer, [{"column": "gian", "at_least": 0.5}])
    with pytest.raises(ValidationError, match="at_least, at_most, band or weigh"):
        Selection(column="gain")


def test_the_error_names_what_is_missing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A column that `score` makes is not one of a scores file; ids that are not the source's are no missing column."""
    with pytest.raises(UserError, match="no document has the column") as caught:
        build_scored(tmp_path, tokenizer, [{"column": "gzip", "at_least": 2}])
    assert "add `score` with gzip" in caught.value.fix and "corpus score" not in caught.value.fix
    with pytest.raises(UserError, match="has no document of the source") as caught:
        build_scored(tmp_path, tokenizer, [{"column": "gain", "at_least": 0.5}], first_id=1000)
    assert "the file has 'd1000', and the source 'd" in caught.value.why


@pytest.mark.parametrize("twice", ["score", "document"])
def test_a_repeated_id_is_refused_with_the_id(tokenizer: Tokenizer, tmp_path: Path, twice: str) -> None:
    """Which of two values, or of two documents, was meant nobody knows. Ids of numbers and of texts are the same."""
    ids = [1, 2, 3, "2"] if twice == "document" else [1, 2, 3, 4]
    records = [{"text": sentence(n, 400), "id": id} for n, id in enumerate(ids)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    scored = [*({"id": str(n), "gain": n} for n in (1, 2, 3)), {"id": 3, "source": "b", "gain": 9}]
    scored += [{"id": 2, "gain": 0.5}] if twice == "score" else []
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(score) + "\n" for score in scored))
    source = {"name": "a", "path": str(tmp_path / "a.jsonl"), "role": "general", "language": "en"}
    source |= {
        "scores": str(tmp_path / "scores.jsonl"),
        "select": [{"column": "gain", "at_least": 2, "from_tokens": 0}],
    }
    spec = CorpusSpec.model_validate({"store": str(tmp_path / "store"), "sources": [source], "mix": {"a": 1}})
    with pytest.raises(UserError, match="twice" if twice == "score" else "several documents") as caught:
        build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    assert "2" in caught.value.why and ("line 5" in caught.value.where) == (twice == "score")


@pytest.mark.parametrize("value", ['"high"', "Infinity", "[1]", "true", "1" + 400 * "0"])
def test_a_score_that_is_no_number_is_told_with_its_line(tokenizer: Tokenizer, tmp_path: Path, value: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": sentence(0, 400), "id": "d"}) + "\n")
    (tmp_path / "scores.jsonl").write_text(f'{{"id": "e", "gain": null}}\n{{"id": "d", "gain": {value}}}\n')
    source = {"name": "a", "path": str(tmp_path / "a.jsonl"), "role": "general", "language": "en"}
    source |= {"scores": str(tmp_path / "scores.jsonl"), "select": [{"column": "gain", "at_least": 2}]}
    spec = CorpusSpec.model_validate({"store": str(tmp_path / "store"), "sources": [source], "mix": {"a": 1}})
    with pytest.raises(UserError, match="a score is no number") as caught:
        build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    assert caught.value.where.endswith("line 2") and caught.value.why.startswith("gain is ")


def test_facts_of_length_tell_a_book_from_a_collection_and_from_a_list() -> None:
    rng = np.random.default_rng(0)
    common = [f"{word}{n}" for word in WORDS for n in range(3)]

    def chapter(subject: list[str], words: int = 4000) -> str:
        return " ".join(rng.choice(common + 4 * subject, words))

    def subject(n: int) -> list[str]:
        return [f"s{n}x{i}" for i in range(150)]

    book = find_length_facts(" ".join(chapter(subject(1)[:75] + subject(10 + n)[:75]) for n in range(8)))
    collection = find_length_facts(" ".join(chapter(subject(20 + n)) for n in range(8)))
    repetition = find_length_facts((chapter(subject(1)) + " ") * 8)
    assert book is not None and collection is not None and repetition is not None
    assert collection.coherence < book.coherence
    assert repetition.vocabulary_growth < 0.05 < book.vocabulary_growth
    assert find_length_facts(chapter(subject(1), 400)) is None
