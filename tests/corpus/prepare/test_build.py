"""A corpus is built once, whole, in balance, and no held-out text has a copy in training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from made_texts import WORDS, han, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.prepare.build import _guess_shares, build, read_tokenizer_texts
from ropewalk.corpus.prepare.ledger import format_ledger
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer


def change(spec: CorpusSpec, **keys: Any) -> CorpusSpec:
    return CorpusSpec.model_validate({**spec.model_dump(), **keys})


def change_source(spec: CorpusSpec, index: int, **keys: Any) -> CorpusSpec:
    sources = [source.model_dump() for source in spec.sources]
    sources[index].update(keys)
    return change(spec, sources=sources)


def snapshot(folder: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if not name.endswith(".lock")}


def read_all(documents: Any, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(tokens) for tokens in documents]


def test_every_document_is_accounted_for(corpus: Corpus) -> None:
    assert corpus.sources == ("prose", "han", "pairs")
    for name, documents in {"prose": 300, "han": 60, "pairs": 200}.items():
        entry, facts = corpus.ledger[name], corpus.facts(name)
        assert entry["read"]["documents"] == documents
        parts = [entry["train"], entry["held_out"], *entry["dropped"].values()]
        assert sum(part["documents"] for part in parts) == documents
        assert sum(part["bytes"] for part in parts) + entry["trimmed_bytes"] == entry["read"]["bytes"]
        assert len(corpus.train(name)) == facts.documents == entry["train"]["documents"]
        assert corpus.train(name).tokens == facts.tokens == entry["train"]["tokens"]
        held_out = max(documents // 50, min(8, documents // 10))
        assert sum(len(shard.ends) for shard in corpus.held_out(name)) == facts.held_out_documents == held_out
        assert name in format_ledger(corpus.ledger)
    assert corpus.facts("han").language == "zh" and corpus.facts("pairs").role == "instruction"


def test_a_rerun_changes_no_byte(spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    before = snapshot(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert build(spec, tokenizer=tokenizer, seed=0, folder=folder) == folder
    assert times == {path: path.stat().st_mtime_ns for path in times}
    build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(folder)
    assert {name: data for name, data in snapshot(tmp_path).items() if not name.startswith("again")} == before
    moved = change(spec, store=str(tmp_path / "other"))
    build(moved, tokenizer=tokenizer, seed=0, folder=tmp_path / "elsewhere")
    assert snapshot(tmp_path / "other") == snapshot(tmp_path / "store")
    assert open_corpus(tmp_path / "elsewhere").digest == open_corpus(folder).digest


def test_another_mix_tokenises_nothing_again(
    spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "first")
    monkeypatch.setattr(Tokenizer, "encode_documents", lambda *_: pytest.fail("tokenised again"))
    other = change(spec, mix={"general": 6, "han": 3, "pairs": 1}, near_duplicates=0.8, held_out=0.1)
    build(other, tokenizer=tokenizer, seed=0, folder=tmp_path / "second")


def test_other_bytes_are_another_store(spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "first"))
    path = Path(str(spec.sources[0].path))
    path.write_text(path.read_text().replace("river", "stream"))
    second = open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "second"))
    assert first.digest != second.digest
    assert len(list((tmp_path / "store").glob("*/shard-00000.tok"))) == 4


def test_a_failed_build_leaves_nothing(spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = Path(str(spec.sources[0].path))
    path.write_bytes(path.read_bytes() + b'{"text": ')
    with pytest.raises(UserError, match="broken JSON line"):
        build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    assert not (tmp_path / "store").exists()


def test_a_folder_in_the_way_is_told_before_any_text_is_read(
    spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(UserError, match="something else is at the place") as caught:
        build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    assert caught.value.where == str(tmp_path / "corpus") and not (tmp_path / "store").exists()


@pytest.mark.parametrize("near_duplicates", [None, 0.8, 0.95])
def test_no_held_out_document_has_a_copy_in_training(
    spec: CorpusSpec,
    write_jsonl: Callable[..., Path],
    tokenizer: Tokenizer,
    tmp_path: Path,
    near_duplicates: float | None,
) -> None:
    families = [np.random.default_rng(family).choice(WORDS, 300).tolist() for family in range(60)]
    copies = [
        {"text": f"{' '.join(family[:150])} copy {copy} of {number} {' '.join(family[150:])}"}
        for number, family in enumerate(families)
        for copy in range(1 + number % 4)
    ]
    path = write_jsonl("copies.jsonl", [*copies[::2], *copies[1::2]])
    halves = [{"name": name, "path": str(path), "role": role} for name, role in (("a", "general"), ("b", "domain"))]
    halves[1]["options"] = {}
    copied = change(
        spec, sources=halves, mix={"general": 1, "domain": 1}, near_duplicates=near_duplicates, held_out=0.3
    )
    corpus = open_corpus(build(copied, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    assert corpus.facts("a").documents == 0  # every text is also in b, and domain wins
    held_out, train = (
        {text.split(" of ")[1].split(" ")[0] for text in texts}
        for texts in (
            [
                tokenizer.decode(tokens)
                for shard in corpus.held_out("b")
                for tokens in np.split(shard.tokens, shard.ends[:-1].astype(int))
            ],
            read_all(corpus.train("b"), tokenizer),
        )
    )
    assert held_out and train and not held_out & train
    dropped = corpus.ledger["b"]["dropped"]
    assert ("near duplicate" in dropped) == (near_duplicates is not None)
    if near_duplicates == 0.8:  # at 0.95 the estimate may keep one that is 0.97 alike
        assert corpus.facts("b").documents + corpus.facts("b").held_out_documents == 60


def test_of_copies_the_longest_stays(
    spec: CorpusSpec, write_jsonl: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = sentence(1, 600)
    path = write_jsonl(
        "a.jsonl", [{"text": text}, {"text": text + " the end"}, {"text": text}, {"text": sentence(2, 600)}]
    )
    copied = change(
        spec,
        sources=[{"name": "a", "path": str(path), "role": "general"}],
        mix={"a": 1},
        near_duplicates=0.8,
        held_out=0,
    )
    corpus = open_corpus(build(copied, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    kept = read_all(corpus.train("a"), tokenizer)
    assert [len(text.split(" ")) for text in kept] == [602, 600]
    assert {reason: part["documents"] for reason, part in corpus.ledger["a"]["dropped"].items()} == {
        "exact duplicate": 1,
        "near duplicate": 1,
    }
    assert corpus.held_out("a") == []


def test_faults_that_are_skipped_are_in_the_ledger(spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = Path(str(spec.sources[0].path))
    path.write_bytes(path.read_bytes() + b'{"text": \n{"text": "\xff"}\n')
    lenient = change_source(spec, 0, faults="skip")
    corpus = open_corpus(build(lenient, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    dropped = corpus.ledger["prose"]["dropped"]
    assert {reason: part["documents"] for reason, part in dropped.items()} == {
        "broken JSON line": 1,
        "invalid UTF-8": 1,
    }
    log = [json.loads(line) for line in next(corpus._stores["prose"].glob("documents.jsonl")).read_text().splitlines()]
    assert len(log) == 302 and log[-1]["dropped"] == "invalid UTF-8" and "line 302" in log[-1]["id"]


def test_a_profile_that_fits_nothing_is_refused(spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no document of source prose is left[\s\S]*little Han \(300\)"):
        build(change_source(spec, 0, profile="prose_zh"), tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")


def test_a_folder_of_another_corpus_is_refused(spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> None:
    build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    for other, seed, differs in (
        (spec, 1, "seed differs"),
        (change(spec, held_out=0.1), 0, "corpus.held_out differs"),
        (change_source(spec, 0, license="MIT"), 0, "source prose: license differs"),
        (change(spec, sources=[spec.sources[0]], mix={"prose": 1}), 0, "its sources are prose, .*, not prose"),
    ):
        with pytest.raises(UserError, match=rf"holds another corpus[\s\S]*why: +{differs}\n"):
            build(other, tokenizer=tokenizer, seed=seed, folder=tmp_path / "corpus")


def test_a_store_that_changed_under_a_corpus_is_refused(spec: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="token store of source prose is gone"):
        open_corpus(folder)
    with pytest.raises(UserError, match="not built"):
        open_corpus(tmp_path)


def test_sample_texts_follow_the_mix(spec: CorpusSpec) -> None:
    texts = list(read_tokenizer_texts(spec, seed=0, size_bytes=60_000))
    size = sum(len(text.encode()) for text in texts)
    chinese = sum(len(text.encode()) for text in texts if text[0] > "一")
    assert size == pytest.approx(60_000, rel=0.2) and chinese / size == pytest.approx(0.2, abs=0.05)


def test_sample_texts_follow_the_weights_of_languages(write_jsonl: Callable[..., Path]) -> None:
    """Two sources of one role and of one size: with weights for their languages they give 3 : 1, as rows will."""
    web = write_jsonl("web.jsonl", [{"text": sentence(n, 60)} for n in range(60)])
    han_texts = write_jsonl("han.jsonl", [{"text": han(n, 150)} for n in range(150)])
    sources = [
        {"name": "web", "path": str(web), "role": "general", "language": "en", "profile": "law"},
        {"name": "han", "path": str(han_texts), "role": "general", "language": "zh", "profile": "law"},
    ]
    data = {"sources": sources, "mix": {"general": 1}, "languages": {"zh": 3, "other": 1}}
    sizes = {"web": 0, "han": 0}
    for text in read_tokenizer_texts(CorpusSpec.model_validate(data), seed=0, size_bytes=40_000):
        sizes["han" if text[0] > "一" else "web"] += len(text.encode())
    assert sizes["han"] / sum(sizes.values()) == pytest.approx(0.75, abs=0.05)
    unsaid = CorpusSpec.model_validate({**data, "sources": [{**sources[0], "language": None}, sources[1]]})
    assert _guess_shares(unsaid) == pytest.approx({"web": 0.5, "han": 0.5}), "only text will tell"


def test_embedded_text_needs_no_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    embedded = CorpusSpec.model_validate(
        {
            "store": str(tmp_path / "store"),
            "sources": [{"name": "pairs", "embedded": "key_value", "role": "instruction", "size_bytes": 20_000}],
            "mix": {"instruction": 1},
        }
    )
    corpus = open_corpus(build(embedded, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))
    tokens, mask = corpus.train("pairs").read(0)
    assert 0 < mask.sum() < len(tokens) and tokens[-1] == tokenizer.eos_id
    assert corpus.facts("pairs").license is not None


@pytest.mark.parametrize(
    "keys",
    [
        {"mix": {"general": 7, "poetry": 1}},
        {"mix": {"general": -1}},
        {"mix": {"general": float("nan")}},
        {"mix": {"general": 0}},
        {"mix": {}},
        {"sources": ()},
        {"held_out": 1.0},
        {"max_repeats": 0},
        {"near_duplicates": 1.5},
        {"unknown": 1},
    ],
)
def test_a_corpus_that_makes_no_sense_is_refused(spec: CorpusSpec, keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        change(spec, **keys)


def test_names_of_sources_are_their_own(spec: CorpusSpec) -> None:
    sources = [source.model_dump() for source in spec.sources]
    for names in (("same", "same", "c"), ("general", "b", "c")):
        renamed = [{**source, "name": name} for source, name in zip(sources, names, strict=True)]
        with pytest.raises(ValidationError, match=r"named same|a role's name"):
            change(spec, sources=renamed, mix={"domain": 1})


def test_chinese_is_cleaned_as_chinese_where_nobody_says(
    spec: CorpusSpec, write_jsonl: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = write_jsonl("short.jsonl", [{"text": han(n, 40)} for n in range(20)] + [{"text": sentence(1, 5)}])
    mixed = change(spec, sources=[{"name": "a", "path": str(path), "role": "general"}], mix={"a": 1})
    ledger = open_corpus(build(mixed, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")).ledger["a"]
    assert ledger["stored"]["documents"] == 20 and ledger["dropped"]["too short"]["documents"] == 1
