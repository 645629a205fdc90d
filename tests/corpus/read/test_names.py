"""Names and ids that are no text: they are spelled, so that a corpus can be written, and two names stay two."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from made_texts import sentence
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.tokenizer import Tokenizer

HALF = "\\ud800"
"""Half a surrogate pair, as JSON writes it."""


def write(path: Path, name: str, text: str) -> None:
    """A file whose name is in GBK, as archives from Windows have it."""
    Path(os.fsdecode(os.fsencode(path) + b"/" + name.encode("gbk"))).write_text(text)


def source(path: Path, **keys: Any) -> dict[str, Any]:
    return {"name": path.name, "path": str(path), "role": "general", "language": "en", **keys}


def read(path: Path, **keys: Any) -> list[Document]:
    return [item for item in read_source(Source(**source(path, **keys)), seed=0) if isinstance(item, Document)]


def test_a_corpus_of_odd_names_is_written(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for folder in ("files", "joined", "tar", "records"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate(("法律.txt", "民法.txt", "表.格", "c.txt")):
        write(tmp_path / "files", name, sentence(number, 80))
        write(tmp_path / "joined", name, sentence(100 + number, 80))
    with tarfile.open(tmp_path / "tar" / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="gbk") as archive:
        for number, name in enumerate(("法律.txt", "民法.txt", "图.png")):
            entry, content = tarfile.TarInfo(name), sentence(200 + number, 80).encode()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    record = '{"id": "%s", "url": "%s", "text": "%s"}\n'
    lines = [record % (id, HALF, sentence(300 + number, 80)) for number, id in enumerate((HALF, "\\udc00", "c"))]
    (tmp_path / "records" / "a.jsonl").write_text("".join([*lines, f'{{"{HALF}": 1}}\n']))
    sources = [
        source(tmp_path / "files"),
        source(tmp_path / "joined", join={"by": "folder", "header": "{name}\n"}),
        source(tmp_path / "tar"),
        source(tmp_path / "records", provenance={"address": "url"}, faults="skip"),
    ]
    keys = {"store": str(tmp_path / "store"), "sources": sources, "mix": {"general": 1}, "worker_count": 1}
    corpus = build(CorpusSpec.model_validate(keys), tokenizer=tokenizer, seed=0, folder=tmp_path / "corpus")
    ledger = json.loads((corpus / "ledger.json").read_text(encoding="utf-8"))
    assert [each["stored"]["documents"] for each in ledger.values()] == [3, 3, 2, 3]
    assert [unread["sort"] for unread in ledger["files"]["not_read"]] == [r".\udcb8\udcf1"]
    assert (
        len({document.id for path in ("files", "tar", "records") for document in read(tmp_path / path, faults="skip")})
        == 8
    )


def test_a_key_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        f'{{"text": "a", "book": "{HALF}", "page": 1}}\n{{"text": "b", "book": "b", "page": 1}}\n'
    )
    join = {"by": "book", "order": "page"}
    with pytest.raises(UserError, match="must hold a text or a number"):
        read(tmp_path, join=join)
    assert [document.text for document in read(tmp_path, join=join, faults="skip")] == ["b"]


def test_a_record_without_an_id_is_known_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": null, "text": "a"}\n{"id": "", "text": "b"}\n{"id": 0, "text": "c"}\n')
    assert [document.id for document in read(tmp_path)] == ["a.jsonl:1", "a.jsonl:2", "0"]
