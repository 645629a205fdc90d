"""What other trainers' own readers find in our files, and what we find in theirs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.foreign_formats import Format, read_tokens, write_tokens
from ropewalk.corpus.tokens.tokenizer import Tokenizer

EOS = 0
Documents = list[tuple[np.ndarray, np.ndarray]]


def made(vocabulary: int, *, masked: bool = False) -> Documents:
    random = np.random.default_rng(vocabulary)
    documents = []
    for number in range(20):
        ids = np.append(random.integers(1, vocabulary, size=number * 7), EOS)
        mask = (random.random(len(ids)) < 0.5).astype(np.uint8) if masked else np.ones(len(ids), np.uint8)
        documents.append((ids, mask))
    return documents


def equal(ours: Iterator[tuple[np.ndarray, np.ndarray]], truth: Documents) -> bool:
    pairs = list(zip(ours, truth, strict=True))
    return all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in pairs)


@pytest.mark.parametrize("format", ["megatron", "datatrove", "olmo", "datasets"])
@pytest.mark.parametrize("vocabulary", [1000, 65_536, 150_000])
def test_what_is_written_is_read_again(tmp_path: Path, format: Format, vocabulary: int) -> None:
    if format == "datasets":
        pytest.importorskip("datasets")
    documents = made(vocabulary)
    first, *_ = write_tokens(iter(documents), tmp_path / "law", format=format, vocabulary=vocabulary)
    assert equal(read_tokens(first, format=format, vocabulary=vocabulary, eos_id=EOS), documents)


@pytest.mark.parametrize("format", ["datatrove", "datasets"])
def test_masks_survive_where_the_format_has_them(tmp_path: Path, format: Format) -> None:
    if format == "datasets":
        pytest.importorskip("datasets")
    documents = made(1000, masked=True)
    first, *_ = write_tokens(iter(documents), tmp_path / "chat", format=format, vocabulary=1000)
    assert equal(read_tokens(first, format=format, vocabulary=1000, eos_id=EOS), documents)


@pytest.mark.parametrize("format", ["megatron", "olmo"])
def test_a_mask_that_would_be_lost_is_refused(tmp_path: Path, format: Format) -> None:
    with pytest.raises(UserError, match=r"has no loss mask\n.*chat, document \d"):
        write_tokens(iter(made(1000, masked=True)), tmp_path / "chat", format=format, vocabulary=1000)


def test_a_file_that_numpy_saved_is_not_read_as_ids(tmp_path: Path) -> None:
    """Its header would be 64 ids that nobody wrote."""
    np.save(tmp_path / "law.npy", np.concatenate([ids for ids, _ in made(1000)]).astype(np.uint16))
    with pytest.raises(UserError, match=r"law\.npy\n.*begins with a header of numpy"):
        next(read_tokens(tmp_path / "law.npy", format="olmo", vocabulary=60_000, eos_id=EOS))


@pytest.mark.parametrize("vocabulary", [1000, 150_000])
def test_megatron_itself_reads_and_writes_the_same(tmp_path: Path, vocabulary: int) -> None:
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    documents = made(vocabulary)
    write_tokens(iter(documents), tmp_path / "ours", format="megatron", vocabulary=vocabulary)
    theirs = megatron.IndexedDataset(str(tmp_path / "ours"))
    assert all(np.array_equal(theirs[number], ids) for number, (ids, _) in enumerate(documents))
    dtype = megatron.DType.optimal_dtype(vocabulary)
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for ids, _ in documents:
        builder.add_document(ids.astype(dtype), [len(ids)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for name in ("bin", "idx"):
        assert (tmp_path / f"ours.{name}").read_bytes() == (tmp_path / f"theirs.{name}").read_bytes()


def test_datatrove_itself_reads_the_same(tmp_path: Path) -> None:
    datatrove = pytest.importorskip("datatrove.utils.dataset")
    documents = made(1000)
    write_tokens(iter(documents), tmp_path / "ours", format="datatrove", vocabulary=1000)
    line = np.concatenate([ids for ids, _ in documents])
    theirs = datatrove.DatatroveFileDataset(str(tmp_path / "ours.ds"), seq_len=50, token_size=2)
    assert len(theirs) >= len(line) // 51
    for window in range(len(theirs)):
        assert np.array_equal(np.asarray(theirs[window]["input_ids"]), line[window * 51 : window * 51 + 51])


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    return [sentence(n, 60) if n % 2 else han(n, 90) for n in range(40)]


def import_tokens(tmp_path: Path, tokenizer: Tokenizer, format: str, path: Path, **keys: object) -> Corpus:
    source = {"name": "law", "path": str(path), "tokens": format, "role": "domain", **keys}
    spec = CorpusSpec.model_validate(
        {"store": str(tmp_path / "store"), "sources": [source], "mix": {"domain": 1}, "held_out": 0}
    )
    return open_corpus(build(spec, tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus"))


@pytest.mark.parametrize("format", ["megatron", "datatrove", "olmo"])
def test_imported_ids_are_documents_like_any_other(
    tmp_path: Path, tokenizer: Tokenizer, texts: list[str], format: Format
) -> None:
    bare = [(np.append(tokenizer.encode(text), tokenizer.eos_id), text) for text in texts]
    documents = [(ids, np.ones(len(ids), np.uint8)) for ids, _ in bare]
    first, *_ = write_tokens(
        iter([*documents, documents[3]]), tmp_path / "law", format=format, vocabulary=tokenizer.vocabulary
    )
    corpus = import_tokens(tmp_path, tokenizer, format, first)
    held = corpus.train("law")
    assert [held.read(number)[0].tolist() for number in range(len(held))] == [
        [tokenizer.bos_id, *ids.tolist()] for ids, _ in bare
    ]
    assert corpus.ledger["law"]["dropped"]["exact duplicate"]["documents"] == 1
    assert corpus.facts("law").languages == {"en": 20, "zh": 20}
    assert corpus.ledger["law"]["train"]["bytes"] == sum(len(text.encode()) for text in texts)


def test_ids_of_another_tokenizer_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_tokens(iter(made(1000)), tmp_path / "law", format="megatron", vocabulary=1000)
    with pytest.raises(UserError, match="not in the vocabulary") as caught:
        import_tokens(tmp_path, tokenizer, "megatron", tmp_path / "law.bin")
    assert "the tokenizer has 400" in caught.value.why and not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    "keys",
    [{"size_bytes": 1000}, {"text_key": "ids"}, {"profile": "law"}, {"faults": "skip"}, {"options": {"split": "test"}}],
)
def test_keys_of_text_are_refused(keys: dict[str, object]) -> None:
    asked = {"name": "law", "path": "law.bin", "tokens": "megatron", "role": "domain"}
    assert Source.model_validate(Source.model_validate(asked).model_dump()).tokens == "megatron"
    with pytest.raises(ValidationError, match=f"leave out {next(iter(keys))}"):
        Source.model_validate({**asked, **keys})
    if keys.keys() & {"text_key", "faults"}:
        made = {"name": "law", "embedded": "statutes_zh", "role": "domain"}
        assert Source.model_validate(Source.model_validate(made).model_dump()).embedded == "statutes_zh"
        with pytest.raises(ValidationError, match=f"text that ropewalk makes.*: leave out {next(iter(keys))}"):
            Source.model_validate({**made, **keys})


@pytest.mark.parametrize(
    ("format", "damage"),
    [
        ("megatron", "index"),
        ("megatron", "head"),
        ("megatron", "ids"),
        ("datatrove", "index"),
        ("datatrove", "ids"),
        ("datatrove", "mask"),
    ],
)
def test_torn_files_are_refused(tmp_path: Path, format: Format, damage: str) -> None:
    target, index, *_ = write_tokens(iter(made(1000)), tmp_path / "law", format=format, vocabulary=1000)
    if damage == "index":
        index.unlink()
    elif damage == "head":
        index.write_bytes(b"x" + index.read_bytes()[1:])
    elif damage == "mask":
        target.with_name(f"{target.name}.loss").write_bytes(bytes(7))
    else:
        target.write_bytes(target.read_bytes()[:-2])
    with pytest.raises(UserError, match="cannot be read"):
        list(read_tokens(target, format=format, vocabulary=1000, eos_id=EOS))
