"""More than 300 damaged inputs in every format that is read: a clear error, or a counted skip, and no partial output.

    python benchmarks/malformed.py [--only FORMAT] [--show]

Valid files of one set of documents are damaged by a system: cut at seven places, one bit flipped at ten, bytes taken
out, put in and set to zero, empty, another format's content, doubled, two damages at once. Each is built into a corpus
with ``faults: error`` and with ``faults: skip``; CASES adds faults that no damage makes. A build must end in a
UserError that says what, where, why and how to mend it, and leave nothing; or all that was read must be in the ledger.
A format with checksums must give the documents of the whole file, or say that it does not. Prints a JSON line for each
format, then one for all.
"""

import argparse
import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import zstandard
from pyarrow import parquet

from ropewalk.core.error import UserError
from ropewalk.core.read_json import read_written_lines
from ropewalk.core.record import Document
from ropewalk.corpus.prepare.build import build
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import CorpusSpec, Source
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer

WORDS = ["river", "stone", "lantern", "harbour", "maple", "copper", "silver", "winter", "garden", "morning", "letter"]
HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"
Files = dict[str, bytes]


def make_texts() -> list[str]:
    """Twelve documents, in English and in Chinese."""
    rng = random.Random(0)
    made = [" ".join(rng.choices(WORDS, k=80)) + f'.\nAnd she said "{number}, no more".' for number in range(6)]
    return made + ["".join(rng.choices(HAN, k=120)) + "。" for _ in range(6)]


def lines(texts: list[str]) -> bytes:
    return "".join(
        json.dumps({"text": text, "id": f"d{n}"}, ensure_ascii=False) + "\n" for n, text in enumerate(texts)
    ).encode()


def table(texts: list[str], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerows([["id", "text"], *([f"d{n}", text] for n, text in enumerate(texts))])
    return file.getvalue().encode()


def tar(texts: list[str]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for number, text in enumerate(texts):
            entry = tarfile.TarInfo(f"in/{number}.txt")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return held.getvalue()


def zipped(texts: list[str], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", how) as archive:
        for number, text in enumerate(texts):
            archive.writestr(f"文/{number}.txt", text)
    return held.getvalue()


def crawl(texts: list[str], pack: Callable[[bytes], bytes] = bytes, kind: str = "response") -> bytes:
    """A WARC of answers or a WET of texts: each record by itself, as crawlers write them."""
    made = b""
    for number, text in enumerate(texts):
        content = text.encode()
        if kind == "response":
            content = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + content
        of = "application/http; msgtype=response" if kind == "response" else "text/plain"
        head = (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a/{number}\r\nWARC-Record-ID: <urn:{number}>\r\n"
        )
        head += f"WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: {of}\r\nContent-Length: {len(content)}\r\n\r\n"
        made += pack(head.encode() + content + b"\r\n\r\n")
    return made


def columns(texts: list[str]) -> bytes:
    held = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([{"text": text} for text in texts]), held, write_page_checksum=True)
    return held.getvalue()


def summed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


FORMATS: dict[str, Callable[[list[str]], bytes]] = {
    "jsonl": lines,
    "ndjson": lines,
    "jsonl.gz": lambda texts: gzip.compress(lines(texts), mtime=0),
    "jsonl.bz2": lambda texts: bz2.compress(lines(texts)),
    "jsonl.xz": lambda texts: lzma.compress(lines(texts)),
    "jsonl.zst": lambda texts: summed(lines(texts)),
    "json": lambda texts: json.dumps([{"text": text} for text in texts], ensure_ascii=False).encode(),
    "csv": table,
    "tsv": lambda texts: table(texts, "\t"),
    "csv.gz": lambda texts: gzip.compress(table(texts), mtime=0),
    "utf16.csv": lambda texts: table(texts).decode().encode("utf-16"),
    "txt": lambda texts: "\n".join(texts).encode(),
    "txt.gz": lambda texts: gzip.compress("\n".join(texts).encode(), mtime=0),
    "tar": tar,
    "tar.gz": lambda texts: gzip.compress(tar(texts), mtime=0),
    "tar.zst": lambda texts: summed(tar(texts)),
    "zip": zipped,
    "stored.zip": lambda texts: zipped(texts, zipfile.ZIP_STORED),
    "warc": crawl,
    "warc.gz": lambda texts: crawl(texts, lambda record: gzip.compress(record, mtime=0)),
    "wet": lambda texts: crawl(texts, kind="conversion"),
    "wet.gz": lambda texts: crawl(texts, lambda record: gzip.compress(record, mtime=0), "conversion"),
    "parquet": columns,
}
CHECKED = ("gz", "bz2", "xz", "zst", "zip", "parquet")
"""Formats whose content has checksums. In others a bit of the text itself can change and nothing shows it."""
CUT_SHOWS = ("tar", "warc", "wet", "json")
"""Formats without them that show where a file was cut."""


def damage(whole: bytes, other: bytes, seed: str) -> Iterator[tuple[str, bytes]]:
    """Damaged copies of a file, each with a name."""
    size, rng = len(whole), random.Random(seed)
    for at in (0, 1, size // 10, size // 3, size // 2, size * 9 // 10, size - 1):
        yield f"cut at {at}", whole[:at]
    for number in range(10):
        at = (number * size) // 10 + rng.randrange(max(1, size // 10))
        at = min(at, size - 1)
        yield f"bit of {at}", whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
    half = size // 2
    yield "zeros within", whole[:half] + b"\0" * min(600, size - half) + whole[half + 600 :]
    yield "bytes taken out", whole[:half] + whole[half + 50 :]
    yield "bytes put in", whole[:half] + rng.randbytes(50) + whole[half:]
    yield "another format", other
    yield "noise", rng.randbytes(size)
    yield "noise behind", whole + rng.randbytes(99)
    yield "doubled and cut", whole + whole[: size // 3]
    yield "turned round", whole[half:] + whole[:half]
    yield "bit and cut", bytes([whole[0] ^ 64]) + whole[1:half]


def one(name: str, content: bytes, **keys: Any) -> tuple[Files, dict[str, Any]]:
    return {name: content}, keys


def bomb(megabytes: int) -> bytes:
    return b'{"text": "' + b"a" * (megabytes << 20) + b'"}\n'


def with_link(texts: list[str]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        entry = tarfile.TarInfo("a.txt")
        entry.size = len(texts[0])
        archive.addfile(entry, io.BytesIO(texts[0].encode()))
        link = tarfile.TarInfo("b.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
        archive.addfile(link)
    return held.getvalue()


def members(**named: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in named.items():
            archive.writestr(name, content)
    return held.getvalue()


def cases(texts: list[str]) -> dict[str, tuple[Files, dict[str, Any]]]:
    """Faults that no damage makes: ``(files, keys of the source)`` by name."""
    good = lines(texts)
    first = json.dumps({"text": texts[0]}).encode()
    return {
        "a quote within a field": one("a.csv", b'id,text\n1,say "hi" now\n2,fine words\n'),
        "a quote that never ends": one("a.csv", b'id,text\n1,fine words\n2,"no end\n3,more\n'),
        "text behind a quote": one("a.csv", b'id,text\n1,"a"b\n2,fine words\n'),
        "a row too short": one("a.csv", b"id,text\n1\n2,fine words\n"),
        "a row too long": one("a.tsv", b"id\ttext\n1\ta\tb\n2\tfine words\n"),
        "a head with one name twice": one("a.csv", b"text,text\na,b\n"),
        "a head alone": one("a.csv", b"id,text\n"),
        "a table without the text": one("a.csv", b"id,body\n1,fine\n"),
        "a table of zeros": one("a.csv", b"id,text\n" + b"\0" * 900),
        "a line that is a list": one("a.ndjson", b"[1, 2]\n" + good),
        "a line that is a number": one("a.ndjson", b"12\n" + good),
        "lines of two records": one("a.ndjson", first + first + b"\n" + good),
        "a line with NaN as its text": one("a.jsonl", b'{"text": NaN}\n' + good),
        "a text that is null": one("a.jsonl", b'{"text": null}\n' + good),
        "half a surrogate pair": one("a.jsonl", b'{"text": "a\\ud800"}\n' + good),
        "brackets 100,000 deep": one("a.jsonl", b"[" * 100_000 + b"\n" + good),
        "a number of 10,000 digits": one("a.jsonl", b'{"n": ' + b"9" * 10_000 + b', "text": "x"}\n' + good),
        "a nested key that one lacks": one("a.jsonl", b'{"m": {"t": "x y z"}}\n{"m": {}}\n', text_key="m.t"),
        "a nested key through a text": one("a.jsonl", b'{"m": "t"}\n', text_key="m.t"),
        "GB 18030 as UTF-8": one("a.txt", texts[-1].encode("gb18030")),
        "UTF-16 without a mark": one("a.txt", texts[-1].encode("utf-16-le")),
        "UTF-16 with half a letter": one("a.jsonl", good.decode().encode("utf-16") + b"\0"),
        "latin-1 as UTF-8": one("a.jsonl", '{"text": "café au lait"}\n'.encode("latin-1") + good),
        "a page of an unknown encoding": one(
            "a.wet", crawl(["x"], kind="conversion").replace(b"plain", b"plain; charset=gb18030")
        ),
        "a zip with a bomb": one("a.zip", members(**{"a.jsonl": bomb(80), "b.txt": texts[0].encode()})),
        "a bomb of gzip": one("a.jsonl.gz", gzip.compress(bomb(80))),
        "a bomb of bzip2": one("a.jsonl.bz2", bz2.compress(bomb(80))),
        "a bomb of zstd": one("a.jsonl.zst", zstandard.compress(bomb(80))),
        "a bomb in a tar": one("a.tar.gz", gzip.compress(tar([texts[0], "a" * (80 << 20)]))),
        "a zip in a zip": one("a.zip", members(**{"b.zip": zipped(texts)})),
        "a name longer than a disk allows": one("a.zip", members(**{"x" * 300 + ".txt": texts[0].encode()})),
        "a name that leaves the folder": one("a.zip", members(**{"../../a.txt": texts[0].encode()})),
        "a link in a tar": one("a.tar", with_link(texts)),
        "two tars in one": one("a.tar", tar(texts[:6]) + tar(texts[6:])),
        "a tar of nothing": one("a.tar", tar([])),
        "a zip of nothing": one("a.zip", members()),
        "a crawl of errors": one("a.warc", crawl(texts).replace(b"200 OK", b"404 No")),
        "a wrong length in a crawl": one("a.warc", crawl(texts).replace(b"Content-Length: ", b"Content-Length: 9")),
        "a length that is no number": one("a.warc", crawl(texts).replace(b"Content-Length: ", b"Content-Length: x")),
        "an answer in damaged gzip": one(
            "a.warc", crawl(texts[:1]).replace(b"charset=utf-8", b"charset=utf-8\r\nContent-Encoding: br")
        ),
        "Parquet without the text": one("a.parquet", columns(texts).replace(b"text", b"body")),
        "a file of nothing but blanks": one("a.txt", b" \n \n"),
        "no suffix": one("a", b"words without a suffix"),
        "an unknown suffix beside": ({"a.jsonl": good, "b.docx": b"PK"}, {}),
        "nothing in the folder": ({}, {}),
        "a path that is not there": ({}, {"path": "no/such/file.jsonl"}),
        "a bucket that is not there": ({}, {"path": "memory://no-such-bucket/a.jsonl"}),
        "a host that cannot be reached": ({}, {"path": "http://127.0.0.1:9/a.jsonl"}),
        "an address of no kind": ({}, {"path": "nosuch://bucket/a.jsonl"}),
    }


def try_one(
    home: Path, files: Files, keys: dict[str, Any], tokenizer: Tokenizer
) -> Iterator[tuple[str, str, list[str]]]:
    """``(faults, outcome, texts)`` of a build that stops at a fault, and of one that skips it."""
    folder = home / "in"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for faults in ("error", "skip"):
        source = {"name": "a", "path": str(folder), "role": "general", "profile": "markup", "faults": faults, **keys}
        spec = {"store": str(home / f"store-{faults}"), "sources": [source], "mix": {"a": 1}, "worker_count": 1}
        made = home / faults
        try:
            build(CorpusSpec.model_validate(spec), tokenizer=tokenizer, seed=0, folder=made)
        except UserError as error:
            assert all((error.what, error.where, error.why, error.fix)), error
            left = [path for path in home.glob("**/*") if path.name.startswith(".tmp-")]
            left += [*home.glob(f"store-{faults}/*/shard-*"), *([made] if made.exists() else [])]
            assert not left, f"left: {left}"
            yield faults, "error", []
            continue
        corpus = open_corpus(made)
        entry = corpus.ledger["a"]
        parts = [entry["train"], entry["held_out"], *entry["dropped"].values()]
        assert sum(part["documents"] for part in parts) == entry["read"]["documents"]
        assert sum(part["bytes"] for part in parts) + entry["trimmed_bytes"] == entry["read"]["bytes"]
        rejects = [*read_written_lines(corpus.store("a") / "rejects.jsonl", dict)]
        assert all(each["place"] and each["why"] for each in rejects)
        read = [each.text for each in read_source(Source.model_validate(source), seed=0) if isinstance(each, Document)]
        yield faults, "counted" if rejects else "built", read


def judge(name: str, kind: str, faults: str, outcome: str, read: list[str], whole: list[str]) -> str:
    """``error``, ``counted``, ``same`` or ``changed``. Fails where fewer documents come than the file shows."""
    if outcome != "built":
        return outcome
    if read[: len(whole)] == whole:
        return "same"
    shows = name.endswith(CHECKED) or (kind.startswith("cut") and name.endswith(CUT_SHOWS))
    assert not (shows and faults == "error" and kind != "another format"), "fewer or other documents, and not a word"
    return "changed"


def run(names: list[str], tokenizer: Tokenizer, home: Path, *, every: int = 1, show: bool = False) -> Counter[str]:
    """Try each n-th damage of the formats ``names``; the outcomes of all of them. Raises AssertionError."""
    texts, total, number = make_texts(), Counter[str](), 0
    for name in names:
        found = Counter[str]()
        whole = FORMATS[name](texts)
        (home / f"whole.{name}").write_bytes(whole)
        source = Source.model_validate({"name": "a", "path": str(home / f"whole.{name}"), "role": "general"})
        read = [each.text for each in read_source(source, seed=0) if isinstance(each, Document)]
        other = zipped(texts) if not name.endswith("zip") else lines(texts)
        for kind, content in damage(whole, other, name):
            number += 1
            if number % every:
                continue
            for faults, outcome, got in try_one(home / str(number), {f"a.{name}": content}, {}, tokenizer):
                try:
                    result = judge(name, kind, faults, outcome, got, read)
                except AssertionError as error:
                    raise AssertionError(f"{name}, {kind}, faults: {faults}: {error}") from None
                found[f"{faults}: {result}"] += 1
                if show:
                    print(f"{name:12} {kind:20} {faults:6} {result}", file=sys.stderr)
        if every == 1:
            print(json.dumps({"format": name, "documents": len(read), **found}), flush=True)
        total += found
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FORMATS, default=[*FORMATS])
    parser.add_argument("--show", action="store_true", help="a line for each input")
    given = parser.parse_args()
    import ropewalk

    tokenizer = load_tokenizer(Path(ropewalk.__file__).parent / "model" / "tiny_base")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        total = run(given.only, tokenizer, home, show=given.show)
        special = Counter[str]()
        for number, (name, (files, keys)) in enumerate(cases(make_texts()).items()):
            for faults, outcome, _ in try_one(home / f"case-{number}", files, keys, tokenizer):
                special[f"{faults}: {outcome}"] += 1
                if given.show:
                    print(f"{name:36} {faults:6} {outcome}", file=sys.stderr)
        print(json.dumps({"cases": sum(special.values()) // 2, **special}))
        total += special
    print(json.dumps({"inputs": sum(total.values()) // 2, **total, "tracebacks": 0, "partial outputs": 0}))


if __name__ == "__main__":
    main()
