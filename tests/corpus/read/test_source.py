"""Whatever is wrong with the data, nobody reads on without knowing: where it is, why, and what to do."""

import bz2
import gzip
import json
import lzma
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
import zstandard
from pyarrow import parquet
from pydantic import ValidationError

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.read import archive, json_file
from ropewalk.corpus.read.archive import content_bytes, read_lines
from ropewalk.corpus.read.source import Reject, read_items, read_source
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
    assert documents[0].id == "first" and documents[1].id in (f"{name}:2", f"{name}, record 2")


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
    assert [document.text for document in read(tmp_path / "*.txt")] == ["second"]
    assert [document.text for document in read(tmp_path / ".*.txt")] == ["no"]
    keys = [document.metadata["join"]["key"] for document in read(tmp_path, join={"by": "folder"})]
    assert keys == [["."], ["."], ["c"]]


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
        (b'{"body": "x", "n": 1}\n', "no text", "line 3", "'text' must contain the text; found keys body, n"),
        (b'{"text": 7}\n', "no text", "line 3", "a int"),
        (b'{"text": null, "id": "x"}\n', "no text", "line 3", "'text' must contain the text; found null"),
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
    assert ("set text_key: body on this source" in caught.value.fix) == (b"body" in bad)
    kept = read(tmp_path / "a.jsonl", faults="skip")
    assert [item.reason if isinstance(item, Reject) else item.text for item in kept] == ["good", what, "good"]


def test_the_field_that_is_offered_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"id": "7", "content": "a longer text", "n": 1}))
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.jsonl")
    offered = re.match(r"set text_key: (\w+) on this source", caught.value.fix)
    assert offered is not None and read(tmp_path / "a.jsonl", text_key=offered[1])[0].text == "a longer text"


def test_a_field_in_a_field_and_a_list_of_messages_are_offered(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"id": "7", "meta": {"body": "a longer text", "url": "b"}}))
    with pytest.raises(UserError, match="found keys id, meta") as caught:
        read(tmp_path / "a.jsonl", text_key="meta.bdy")
    assert "set text_key: meta.body on" in caught.value.fix
    turns = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because of that"}]
    (tmp_path / "b.jsonl").write_bytes(lines({"id": "a long name of the record", "conversations": turns}))
    with pytest.raises(UserError) as caught:
        read(tmp_path / "b.jsonl")
    assert "set options: {messages_key: conversations} on" in caught.value.fix
    found = read(tmp_path / "b.jsonl", role="instruction", options={"messages_key": "conversations"})
    assert "because of that" in found[0].text


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
    with pytest.raises(UserError, match="an archive is incomplete or damaged"):
        read(tmp_path / f"a.jsonl.{ending}")


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("zst", zstandard.compress), ("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)],
)
def test_what_is_whole_in_a_torn_archive_is_kept_on_demand(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    content = lines(*({"text": random_text(number)} for number in range(1500)))
    whole = pack(content)
    (tmp_path / f"a.jsonl.{ending}").write_bytes(whole[: int(len(whole) * 0.7)])
    *documents, last = read(tmp_path / f"a.jsonl.{ending}", faults="skip", language="en")
    assert isinstance(last, Reject) and last.reason == "torn archive"
    assert f"line {len(documents) + 1}," in last.place
    assert 100 < len(documents) < 1500
    assert [item.text for item in documents] == [random_text(number) for number in range(len(documents))]


def test_what_is_no_archive_is_an_error(tmp_path: Path) -> None:
    for name in ("a.jsonl.zst", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(b'{"text": "plain"}\n' * 20)
        with pytest.raises(UserError, match="not the kind of archive that its suffix says"):
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


@pytest.mark.parametrize("rows", [0, 2])  # from the start, or while it is streamed
def test_a_dataset_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    def stream() -> Iterator[dict[str, str]]:
        yield from ({"text": sentence(number, 20)} for number in range(rows))
        raise ConnectionError("Couldn't reach 'owner/data' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream() if rows else next(stream()))
    hub = Source.model_validate({"name": "s", "hub": "owner/data", "role": "general"})
    with pytest.raises(UserError, match="cannot be read") as caught:
        list(read_source(hub, seed=0))
    assert "Couldn't reach" in caught.value.why and "`path`" in caught.value.fix


@pytest.mark.parametrize("missing", ["trafilatura", "lxml_html_clean", "lxml", "justext"])
def test_the_library_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    (tmp_path / "a.html").write_text("<p>a page</p>")
    program = f"""import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from ropewalk.core.error import UserError
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
try:
    list(read_source(Source(name="a", path={str(tmp_path)!r}, role="general", language="en"), seed=0))
except UserError as error:
    print(error.why, error.fix)"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"`{missing}`" in done.stdout and "ropewalk[html]" in done.stdout, done.stderr


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


def write_parquet(path: Path, records: list[dict[str, Any]]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=100)


def test_parquet_is_read_row_by_row(tmp_path: Path) -> None:
    records = [{"text": sentence(number), "id": f"row {number}", "other": number} for number in range(300)]
    write_parquet(tmp_path / "a.parquet", records)
    documents = read(tmp_path / "a.parquet", language="en")
    assert [(d.id, d.text) for d in documents] == [(record["id"], record["text"]) for record in records]
    assert documents[7].metadata["place"].startswith("a.parquet, row 7")


def test_keys_that_a_table_filled_with_null_are_no_arguments(tmp_path: Path) -> None:
    """Two calls of unlike tools in one column: each row has the keys of both."""

    def call(**arguments: str) -> dict[str, Any]:
        made = {"type": "function", "function": {"name": "find", "arguments": arguments}}
        return {
            "messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "", "tool_calls": [made]}]
        }

    write_parquet(tmp_path / "a.parquet", [call(city="Paris"), call(day="Monday")])
    options = {"messages_key": "messages", "template": "chat"}
    found = [document.metadata["messages"] for document in read(tmp_path / "a.parquet", options=options)]
    arguments = [each["messages"][1]["tool_calls"][0]["function"]["arguments"] for each in found]
    assert arguments == [{"city": "Paris"}, {"day": "Monday"}]


def test_a_broken_parquet_file_is_a_fault(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", RECORDS)
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="broken Parquet file"):
        read(tmp_path / "b.parquet")
    items = read(tmp_path, faults="skip")
    assert [item.reason if isinstance(item, Reject) else item.text for item in items] == [
        *(record["text"] for record in RECORDS),
        "broken Parquet file",
    ]


def test_a_dataset_on_disk_and_one_in_a_folder_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": sentence(number), "id": str(number)} for number in range(20)]
    parts = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:3])}
    )
    parts.save_to_disk(str(tmp_path / "saved"))
    assert [document.id for document in read(tmp_path / "saved", language="en")] == [row["id"] for row in rows]
    assert len(read(tmp_path / "saved", language="en", options={"split": "test"})) == 3
    with pytest.raises(UserError, match="no such split"):
        read(tmp_path / "saved", options={"split": "other"})
    parts["train"].save_to_disk(str(tmp_path / "alone"))
    assert len(read(tmp_path / "alone", language="en")) == 20

    (tmp_path / "repo").mkdir()
    write_parquet(tmp_path / "repo" / "train-00000.parquet", rows)
    for size_bytes in (None, 1000):
        hub = {"name": "s", "hub": str(tmp_path / "repo"), "role": "general", "language": "en"}
        found = list(read_source(Source.model_validate({**hub, "size_bytes": size_bytes}), seed=0))
        assert [item.text for item in found] == [row["text"] for row in rows[: len(found)]]  # type: ignore[union-attr]
        assert len(found) == (20 if size_bytes is None else 4)


PAGE = """<html><head><title>Rope</title></head><body><nav><a href="/">Home</a> <a href="/a">Archive</a></nav>
<article><h1>On rope</h1>{paragraphs}</article><footer>Copyright 2020, all rights reserved</footer></body></html>"""


def test_of_a_page_the_main_text_is_read(tmp_path: Path) -> None:
    paragraphs = "".join(f"<p>{sentence(number, 60)}.</p>" for number in range(6))
    (tmp_path / "a.html").write_text(PAGE.format(paragraphs=paragraphs))
    (document,) = read(tmp_path / "a.html", language="en")
    assert all(sentence(number, 60) in document.text for number in range(6))
    assert "<p>" not in document.text and "Archive" not in document.text
    (tmp_path / "b.html").write_text("<html></html>")
    with pytest.raises(UserError, match="no main text"):
        read(tmp_path / "b.html")


def write_pdf(path: Path, pages: list[str]) -> None:
    """A PDF by hand: a catalogue, and for each page its tree node and a stream that draws one line in Helvetica."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        page = f"/Parent 2 0 R /Contents {5 + 2 * number} 0 R /MediaBox [0 0 612 792]"
        objects.append(f"<< /Type /Page {page} /Resources << /Font << /F1 3 0 R >> >> >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    path.write_text(f"{body}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}")


def test_of_a_pdf_the_text_layer_is_read(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", ["first page of it", "second page of it"])
    (document,) = read(tmp_path / "a.pdf", language="en")
    assert document.text == "first page of it\n\nsecond page of it"
    write_pdf(tmp_path / "b.pdf", [""])
    (tmp_path / "c.pdf").write_bytes(b"%PDF-1.4\nno such thing")
    items = read(tmp_path, language="en", faults="skip")
    assert [item.reason for item in items if isinstance(item, Reject)] == ["no text", "broken PDF"]


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"a\0b", "NUL characters"), ("天地".encode("gb18030") * 20, "invalid UTF-8"), (b"\xff\xfea", "invalid utf-16")],
)
def test_a_text_file_that_is_none_is_a_fault(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_text("good")
    with pytest.raises(UserError, match=what):
        read(tmp_path)
    assert len(read(tmp_path, faults="skip")) == 2
    mended, _ = read(tmp_path, faults="replace")
    assert isinstance(mended, Document) and "\0" not in mended.text


def test_older_encodings_are_read_when_named_and_guessed_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes((han(1, 2000) + "\n").encode("gb18030"))
    with pytest.raises(UserError, match="it can be read as GB 18030") as caught:
        read(tmp_path / "a.txt")
    assert caught.value.fix.startswith("set options: {encoding: gb18030} on this source")
    assert read(tmp_path / "a.txt", options={"encoding": "gb18030"})[0].text == han(1, 2000) + "\n"
    (tmp_path / "b.txt").write_text("with a mark", encoding="utf-16")
    (tmp_path / "c.txt").write_text("with a mark", encoding="utf-8-sig")
    assert [read(tmp_path / name)[0].text for name in ("b.txt", "c.txt")] == ["with a mark"] * 2


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


REPOSITORIES = {
    "one/pyproject.toml": "[project]",
    "one/app/main.py": "from app import tools\nimport app.deep.base\nmain()",
    "one/app/tools.py": "from .deep.base import thing\ntools()",
    "one/app/deep/base.py": "thing = 1",
    "two/a.c": '#include "z.h"\nint a;',
    "two/z.h": "int z;",
    "two/sub/package.json": "{}",
    "two/sub/index.js": "import x from './y'\nx()",
    "two/sub/y.js": "export default 1",
    "top.py": "top = 1",
}


def read_tree(folder: Path, **rules: Any) -> dict[str, list[str]]:
    """By group, the headers (or ids) of its files in the order of reading and their place in it."""
    found: dict[str, list[tuple[Any, str]]] = {}
    for document in read(folder, profile="code", join=rules):
        assert isinstance(document, Document)
        part = document.metadata["join"]
        found.setdefault(*part["key"], []).append((part["order"], part.get("header", document.id)))
    return {group: [header for _, header in sorted(members)] for group, members in found.items()}


def test_a_repository_is_a_group_of_files_under_their_paths(tmp_path: Path) -> None:
    write_tree(tmp_path, REPOSITORIES)
    groups = read_tree(tmp_path, by="repository")
    assert [*groups] == [".", "one", "two"]
    assert groups["two"][:2] == ["// a.c\n", "// sub/index.js\n"] and groups["one"][-1] == "# pyproject.toml\n"
    assert [*read_tree(tmp_path, by="package")][-2:] == ["two", "two/sub"]
    assert read_tree(tmp_path, by="repository", header="")["."] == ["top.py"]
    assert read_tree(tmp_path, by="folder", header="[{folder}: {name}]")["two/sub"][1] == "[two/sub: y]"


def test_files_can_follow_what_they_import(tmp_path: Path) -> None:
    write_tree(tmp_path, REPOSITORIES)
    groups = read_tree(tmp_path, by="repository", order="dependency", header="{path}")
    assert groups["one"] == ["app/deep/base.py", "app/tools.py", "app/main.py", "pyproject.toml"]
    assert groups["two"] == ["sub/y.js", "sub/index.js", "z.h", "a.c"]


def test_a_circle_of_imports_stands_together_by_path(tmp_path: Path) -> None:
    """Also a file that only needs the circle follows it: d is no part of it."""
    write_tree(tmp_path, {"r/b.py": "import c", "r/c.py": "import e", "r/e.py": "import b", "r/a.py": "import b"})
    documents = read(tmp_path, profile="code", join={"by": "repository", "order": "dependency"})
    order = {d.id: d.metadata["join"]["order"][0] for d in documents if isinstance(d, Document)}
    assert sorted(order, key=lambda id: order[id]) == ["r/b.py", "r/c.py", "r/e.py", "r/a.py"]
    circle = {d.id for d in documents if isinstance(d, Document) and d.metadata["join"].get("in_circle")}
    assert circle == {"r/b.py", "r/c.py", "r/e.py"}


@pytest.mark.parametrize("rules", [{"by": "repository", "order": ["date"]}, {"by": "folder", "header": "{title}"}])
def test_files_have_no_fields(rules: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="files have no"):
        source("x", join=rules)


def test_where_joins_of_files_went_is_told() -> None:
    with pytest.raises(ValidationError, match=r"options\.join is now `join` of the source"):
        source("x", options={"join": "repository"})


@pytest.mark.parametrize("step", [1, 7, 100])
def test_a_json_file_is_read_element_by_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(archive, "_CHUNK_BYTES", step)
    records = [{"text": han(number, 30), "n": [1, {"x": -2.5e3}]} for number in range(20)]
    (tmp_path / "a.json").write_text(json.dumps(records, ensure_ascii=False, indent=1))
    assert [document.text for document in read(tmp_path / "a.json")] == [record["text"] for record in records]
    (tmp_path / "a.json").write_text(json.dumps(records[0], ensure_ascii=False))
    assert [document.text for document in read(tmp_path / "a.json")] == [records[0]["text"]]
    torn = json.dumps(records, ensure_ascii=False)
    (tmp_path / "a.json").write_text(torn[: len(torn) // 2])
    *documents, last = read(tmp_path / "a.json", faults="skip")
    assert 0 < len(documents) < 20 and isinstance(last, Reject) and last.reason == "broken JSON file"


LONG = [
    b'{"text": "a"}', b' {"text": "\xe5\xa4\xa9", "n": [1, -0.0, 1e400, NaN, -Infinity, 12345678901234567890123]} \r',
    b'{"text": "\\ud83d\\ude00\\u0000"}', b'{"text": "\\ud800"}', b'{"text": "\\ud83d\\u0041"}', b'{"text": "\x01"}',
    b'{"text": "\xed\xa0\x80"}', b'{"text": "a", "text": "b"}', b'{"text": "a",}', b'{"text": "a"} x', b'["x"]', b'"x"',
    b'\xef\xbb\xbf{"text": "a"}', b'{"text": "\\x"}', b'{"text": "a"', b'{"text": "a", "n": 01}',
    b'{"text": "a", "n": -NaN}',
    b'{"text": "a", "n": ' + b"[" * 300 + b"]" * 300 + b"}", b'{"text": "a", "n": ' + b"9" * 5000 + b"}",
    "{\"text\": \"\u5929\"}".encode("utf-16"), b'{"text": "a"}\x00',
]  # fmt: skip


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("faults", ["skip", "replace"])
def test_a_long_record_is_read_as_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, faults: str
) -> None:
    """One parser reads bytes, another text: the same documents, or the same faults at the same bytes."""
    for content in LONG:
        (tmp_path / f"a.{ending}").write_bytes(content)
        short = list(read_items(source(tmp_path / f"a.{ending}", faults=faults), seed=0))
        monkeypatch.setattr(json_file, "LONG_BYTES", 1)
        assert list(read_items(source(tmp_path / f"a.{ending}", faults=faults), seed=0)) == short
        monkeypatch.undo()
    (tmp_path / "b.json").write_text(json.dumps([{"text": han(number, 30)} for number in range(9)], ensure_ascii=False))
    monkeypatch.setattr(json_file, "LONG_BYTES", 40)
    found = [item.metadata["place"] for item in read(tmp_path / "b.json") if isinstance(item, Document)]
    monkeypatch.undo()
    assert found == [item.metadata["place"] for item in read(tmp_path / "b.json") if isinstance(item, Document)]
