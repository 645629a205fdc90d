"""Whatever is wrong with the data, nobody reads on without knowing: where it is, why, and what to do."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from pydantic import ValidationError

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.archive import content_bytes, read_lines
from ropewalk.corpus.read import Reject, read_source
from ropewalk.corpus.spec import Source


def source(path: Path | str, **keys: Any) -> Source:
    return Source.model_validate({"name": "source", "path": str(path), "role": "general", **keys})


def read(path: Path | str, **keys: Any) -> list[Document | Reject]:
    return list(read_source(source(path, **keys), seed=0))


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def random_text(number: int) -> str:
    """A kilobyte that no archive makes much smaller."""
    return np.random.default_rng(number).bytes(500).hex()


RECORDS = [{"text": sentence(1), "id": "first"}, {"text": han(2)}]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", lambda data: data),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.ZstdCompressor().compress),
        (
            "a.jsonl.zst",
            lambda data: b"".join(zstandard.compress(data[at : at + 50]) for at in range(0, len(data), 50)),
        ),
        ("a.json", lambda data: json.dumps([json.loads(line) for line in data.splitlines()]).encode()),
    ],
)
def test_records_from_every_container(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(pack(lines(*RECORDS)))
    documents = read(tmp_path / name)
    assert [document.text for document in documents] == [record["text"] for record in RECORDS]
    assert [document.language for document in documents] == ["en", "zh"]
    assert documents[0].id == "first" and documents[1].id.startswith(str(tmp_path / name))


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    for name, text in {
        "b.txt": "second",
        "a.md": "first",
        "c/d.txt": "third",
        ".hidden.txt": "no",
        "x.bin": "no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [document.text for document in read(tmp_path)] == ["first", "second", "third"]
    assert [document.text for document in read(tmp_path / "*.txt")] == ["no", "second"]
    assert [document.text for document in read(tmp_path, options={"join": "folder"})] == ["first\n\nsecond", "third"]


def test_a_code_tree_is_its_programs(tmp_path: Path) -> None:
    for name in ("package/a.py", "package/b.rs", "package/data.json", "node_modules/c.js", "readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [d.text for d in read(tmp_path, profile="code", language="code")] == ["package/a.py", "package/b.rs"]


def test_prompt_and_answer_become_a_span(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"q": "why?", "a": "since"}))
    (document,) = read(tmp_path / "a.jsonl", options={"prompt_key": "q", "answer_key": "a"})
    assert document.text == "why?\nsince" and document.loss_spans == ((5, 10),)


def test_spans_that_a_record_brings(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "why? since", "loss_spans": [[5, 10]]}))
    assert read(tmp_path / "a.jsonl")[0].loss_spans == ((5, 10),)


def test_size_bytes_ends_after_a_whole_document(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*({"text": "x" * 100} for _ in range(10))))
    assert len(read(tmp_path / "a.jsonl", size_bytes=250)) == 3


@pytest.mark.parametrize(
    ("bad", "what", "where", "why"),
    [
        (b'{"text": "torn\n', "broken JSON line", "line 3, byte 40", "Invalid control|Unterminated"),
        (b'{"text": "\xff"}\n', "invalid UTF-8", "line 3, byte 41", "0xff"),
        (b'{"body": "x", "n": 1}\n', "no text", "line 3", "'text' should hold the text; found keys body, n"),
        (b'{"text": 7}\n', "no text", "line 3", "a int"),
        (b'["x"]\n', "not a record", "line 3", "a list"),
        (b'{"text": "\\ud800"}\n', "invalid text", "line 3", "surrogate"),
        (b'{"text": "abc", "loss_spans": [[2, 9]]}\n', "bad loss spans", "line 3", "within 3 characters"),
    ],
)
def test_a_fault_has_file_line_and_reason(tmp_path: Path, bad: bytes, what: str, where: str, why: str) -> None:
    good = b'{"text": "good"}\n'
    (tmp_path / "a.jsonl").write_bytes(good + b"\n" + bad + good)
    with pytest.raises(UserError, match=why) as caught:
        read(tmp_path / "a.jsonl")
    assert what in caught.value.what and str(tmp_path / "a.jsonl") in caught.value.where
    assert where.split(",")[0] in caught.value.where
    kept = read(tmp_path / "a.jsonl", faults="skip")
    assert [item.reason if isinstance(item, Reject) else item.text for item in kept] == ["good", what, "good"]


def test_the_byte_of_a_fault_is_that_of_the_file(tmp_path: Path) -> None:
    content = b'{"text": "good"}\n{"text": "\xe5\xa4\xa9\xff"}\n'
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.jsonl")
    assert f"line 2, byte {content.index(0xFF)}" in caught.value.where


def test_text_can_be_mended_on_demand(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\xffb"}\n{"text": "c\\ud800d"}\n')
    assert [document.text for document in read(tmp_path / "a.jsonl", faults="replace")] == ["a\ufffdb", "c\ufffdd"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(("ending", "pack"), [("zst", zstandard.compress), ("gz", gzip.compress)])
def test_a_torn_archive_is_an_error(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], share: float) -> None:
    whole = pack(lines(*({"text": sentence(number)} for number in range(300))))
    (tmp_path / f"a.jsonl.{ending}").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="an archive is torn"):
        read(tmp_path / f"a.jsonl.{ending}")


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("zst", zstandard.compress), ("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)],
)
def test_what_is_whole_in_a_torn_archive_is_kept_on_demand(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    content = lines(*({"text": random_text(number)} for number in range(3000)))
    whole = pack(content)
    (tmp_path / f"a.jsonl.{ending}").write_bytes(whole[: int(len(whole) * 0.7)])
    *documents, last = read(tmp_path / f"a.jsonl.{ending}", faults="skip")
    assert isinstance(last, Reject) and last.reason == "torn archive"
    assert f"line {len(documents) + 1}," in last.place
    assert 100 < len(documents) < 3000
    assert [item.text for item in documents] == [random_text(number) for number in range(len(documents))]


def test_what_is_no_archive_is_an_error(tmp_path: Path) -> None:
    for name in ("a.jsonl.zst", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(b'{"text": "plain"}\n' * 20)
        with pytest.raises(UserError, match="an archive is torn"):
            read(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"body": 1}\n'])
def test_a_source_without_a_document_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="has no document"):
        read(tmp_path / "a.jsonl", faults="skip")


def test_missing_files_are_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.jsonl", tmp_path / "*.jsonl", tmp_path):
        with pytest.raises(UserError, match="has no files"):
            read(path)


def test_a_hub_source_without_the_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    hub = Source.model_validate({"name": "s", "hub": "owner/data", "role": "general"})
    with pytest.raises(UserError, match="pip install"):
        list(read_source(hub, seed=0))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"path": "a", "hub": "b"},
        {"path": "a", "options": {"revision": "main"}},
        {"path": "a", "options": {"encoding": "utf-9"}},
        {"path": "a", "options": {"prompt_key": "q"}},
        {"path": "a", "size_bytes": "10x"},
        {"path": "a", "name": "../up"},
    ],
)
def test_a_source_that_makes_no_sense_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate({"name": "s", "role": "general", **keys})


def test_lines_know_their_offsets(tmp_path: Path) -> None:
    content = "".join(han(n, n % 50) + "\n" for n in range(20_000)).encode() + b"last"
    (tmp_path / "a.txt").write_bytes(content)
    read_back = list(read_lines(tmp_path / "a.txt"))
    assert all(content[line.offset : line.offset + len(line.content)] == line.content for line in read_back)
    assert [line.number for line in read_back] == list(range(1, 20_002)) and read_back[-1].content == b"last"


def test_the_size_of_an_archive_is_read_from_its_head(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b"x" * 1000))
    assert content_bytes(tmp_path / "a.jsonl.zst") == 1000
