"""Two hundred sources made wrong by a seed: each ends in a clear error and leaves nothing, or in counted rejects."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer

CASES = 200
Random = np.random.Generator
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def records(rng: Random) -> list[dict[str, object]]:
    first = int(rng.integers(1 << 30))
    return [{"text": f"{sentence(first + n)}. {han(first + n)}", "id": str(n)} for n in range(12)]


def write_source(folder: Path, rng: Random) -> Path:
    """Twelve good documents in a format that is drawn."""
    made, ending = records(rng), str(rng.choice(list(PACK)))
    match rng.choice(["jsonl", "json", "txt", "parquet", "html", "pdf"], p=[0.4, 0.15, 0.2, 0.15, 0.05, 0.05]):
        case "jsonl":
            content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in made).encode()
            path = folder / f"a.jsonl{ending}"
            path.write_bytes(PACK[ending](content))
        case "json":
            path = folder / f"a.json{ending}"
            path.write_bytes(PACK[ending](json.dumps(made, ensure_ascii=False).encode()))
        case "txt":
            path = folder / f"a.txt{ending}"
            path.write_bytes(PACK[ending]("\n".join(str(record["text"]) for record in made).encode()))
        case "parquet":
            path = folder / "a.parquet"
            parquet.write_table(pyarrow.Table.from_pylist(made), path)
        case "html":
            path = folder / "a.html"
            text = "".join(f"<p>{record['text']}</p>" for record in made)
            path.write_text(f"<html><body><article>{text}</article></body></html>")
        case _:
            path = folder / "a.pdf"
            path.write_bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n" + rng.bytes(400))
    return path


def corrupt(content: bytes, rng: Random) -> bytes:
    """A file as disks, downloads and careless programs leave it."""
    at = int(rng.integers(len(content)))
    match rng.integers(9):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]
        case 2:
            return content[:at] + rng.bytes(20) + content[at:]
        case 3:
            return content[:at] + b"\0" * 40 + content[at + 40 :]
        case 4:
            return content[:at] + content[at + 50 :]
        case 5:
            return rng.bytes(len(content))
        case 6:
            return content.replace(b'"text"', b'"body"').replace(b"<p>", b"<!--")
        case 7:
            return content + content[: at // 2]
        case _:
            return content[at:] + content[:at]


@pytest.mark.parametrize("block", range(10))
def test_malformed_sources(block: int, tokenizer: Tokenizer, tmp_path: Path) -> None:
    outcomes = {"error": 0, "built": 0}
    for case in range(block * CASES // 10, (block + 1) * CASES // 10):
        rng = np.random.default_rng(case)
        home = tmp_path / str(case)
        home.mkdir()
        path = write_source(home, rng)
        path.write_bytes(corrupt(path.read_bytes(), rng))
        for faults in ("error", ("skip", "replace")[case % 2]):
            source = {"name": "a", "path": str(path), "role": "general", "language": "en", "profile": "markup"}
            spec = CorpusSpec.model_validate(
                {"store": str(home / f"{faults}-store"), "sources": [{**source, "faults": faults}], "mix": {"a": 1}}
            )
            folder = home / faults
            try:
                build(spec, tokenizer=tokenizer, seed=0, folder=folder)
            except UserError as error:
                outcomes["error"] += 1
                assert all((error.what, error.where, error.why, error.fix))
                assert not folder.exists() and not list(home.glob("**/.tmp-*")), case
                assert not list(home.glob(f"{faults}-store/*/shard-*")), case
                continue
            outcomes["built"] += 1
            corpus = open_corpus(folder)
            entry, store = corpus.ledger["a"], corpus.store("a")
            parts = [entry["train"], entry["held_out"], *entry["dropped"].values()]
            assert sum(part["documents"] for part in parts) == entry["read"]["documents"], case
            assert sum(part["bytes"] for part in parts) + entry["trimmed_bytes"] == entry["read"]["bytes"], case
            rejects = [json.loads(line) for line in (store / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
            copies = (folder / "a" / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
            assert len(rejects) + len(copies) == sum(part["documents"] for part in entry["dropped"].values()), case
            assert all(entry["place"] and entry["why"] for entry in rejects), case
    assert outcomes["error"] and outcomes["built"]
