"""Archives of files, web archives, texts by line and nested fields give the documents that plain files give."""

import gc
import gzip
import importlib
import io
import json
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.dedup.prompt_texts import read_prompt_texts
from ropewalk.corpus.read import archive as packed_files
from ropewalk.corpus.read import archive_members
from ropewalk.corpus.read.source import Reject, digest_files, read_source, source_files
from ropewalk.corpus.spec import Source

PAGE = "<html><body><article><p>" + "A sentence of the main text, long enough. " * 8 + "</p></article></body></html>"
LINES = "".join(json.dumps({"text": f"record {number}", "id": f"r{number}"}) + "\n" for number in range(3))
TEXTS = {"a/one.txt": "The first text.\n", "a/two.md": "第二篇文章。\n", "b/page.html": PAGE, "b/three.jsonl": LINES}


def read(path: Path | str, **given: object) -> list[Document | Reject]:
    return [*read_source(Source.model_validate({"name": "s", "path": str(path), "role": "general", **given}), seed=0)]


def texts(found: list[Document | Reject]) -> list[str]:
    return [item.text for item in found if isinstance(item, Document)]


def tar(files: dict[str, str | bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return held.getvalue()


def pack(name: str, files: dict[str, str | bytes]) -> bytes:
    if name.endswith(".zip"):
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in files.items():
                archive.writestr(member, content)
        return held.getvalue()
    whole = tar(files)
    return gzip.compress(whole) if name.endswith("gz") else zstandard.compress(whole) if name.endswith("zst") else whole


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.tar.zst", "x.zip"])
def test_an_archive_reads_as_its_folder(tmp_path: Path, name: str) -> None:
    for member, content in TEXTS.items():
        (tmp_path / "plain" / member).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plain" / member).write_text(content)
    (tmp_path / name).write_bytes(pack(name, TEXTS))
    plain, packed = read(tmp_path / "plain"), read(tmp_path / name)
    assert sorted(texts(packed)) == sorted(texts(plain)) and len(packed) == 6
    ids = {item.id for item in packed if isinstance(item, Document)}
    assert ids == {f"{name}/a/one.txt", f"{name}/a/two.md", f"{name}/b/page.html", "r0", "r1", "r2"}


def test_a_webdataset_sample_is_one_record(tmp_path: Path) -> None:
    files = {}
    for number in range(3):
        files |= {
            f"{number:03d}.json": json.dumps({"url": f"u{number}", "id": f"d{number}"}),
            f"{number:03d}.txt": f"text {number}",
        }
        files[f"{number:03d}.jpg"] = "binary"
    (tmp_path / "x.tar").write_bytes(tar(files))
    found = read(tmp_path / "x.tar")
    assert [(item.id, item.text) for item in found if isinstance(item, Document)] == [
        (f"d{n}", f"text {n}") for n in range(3)
    ]
    unread = [item for item in found if isinstance(item, Reject)]
    assert [item.reason for item in unread] == ["a member that is not read (.jpg)"] * 3  # counted, not silent


def test_members_that_are_not_read_are_counted(tmp_path: Path) -> None:
    files = {"__MACOSX/._a.txt": "x", ".hidden/b.txt": "y", "c.zip": b"PK", "d.txt": "text"}
    (tmp_path / "x.zip").write_bytes(pack("x.zip", files))
    found = read(tmp_path / "x.zip")
    assert texts(found) == ["text"]
    reasons = [item.reason for item in found if isinstance(item, Reject)]
    assert reasons == ["a member that is not read (hidden)"] * 2 + ["a member that is not read (.zip)"]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_torn_archive_is_an_error_or_a_counted_reject(tmp_path: Path, name: str, kept: float) -> None:
    whole = pack(name, {f"{number}.txt": f"text {number} " * 300 for number in range(20)})
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError) as told:
        read(tmp_path / name)
    assert name in str(told.value)
    try:
        found = read(tmp_path / name, faults="skip")
    except UserError as error:  # nothing at all could be read
        assert "has no document" in str(error)
    else:
        assert any(isinstance(item, Reject) and item.reason in ("torn archive", "broken archive") for item in found)


def test_a_tar_that_ends_between_two_members_is_torn(tmp_path: Path) -> None:
    whole = tar({"a.txt": "x" * 512, "b.txt": "y" * 512})
    (tmp_path / "x.tar").write_bytes(whole[:1024])  # a header and its content, and no end
    with pytest.raises(UserError, match="does not end with a block of zeros"):
        read(tmp_path / "x.tar")


def test_a_fault_in_a_member_names_archive_member_and_line(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar({"in/a.jsonl": '{"text": "fine"}\n{"text": \n'}))
    with pytest.raises(UserError, match=r"x\.tar/in/a\.jsonl, line 2"):
        read(tmp_path / "x.tar")
    found = read(tmp_path / "x.tar", faults="skip")
    assert texts(found) == ["fine"] and isinstance(found[1], Reject)


def test_a_damaged_header_and_a_second_tar_are_told(tmp_path: Path) -> None:
    """tarfile takes both for the end of the archive, and would pass over the rest."""
    first, second = (tar({f"{part}{n}.txt": f"text {part} {n}" for n in range(4)}) for part in "ab")
    damaged = bytearray(first)
    damaged[2 * 1024 + 3] ^= 1  # the header of the third member
    for whole in (bytes(damaged), first + second):
        (tmp_path / "x.tar").write_bytes(whole)
        with pytest.raises(UserError, match="damaged header, or another archive"):
            read(tmp_path / "x.tar")
        found = read(tmp_path / "x.tar", faults="skip")
        assert texts(found)[:2] == ["text a 0", "text a 1"]
        assert [item.reason for item in found if isinstance(item, Reject)] == ["torn archive"]


def test_a_link_in_an_archive_is_counted(tmp_path: Path) -> None:
    link = tarfile.TarInfo("b.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(Path(__file__), "a.txt")
        archive.addfile(link)
    reasons = [item.reason for item in read(tmp_path / "x.tar") if isinstance(item, Reject)]
    assert reasons == ["a member that is not read (link)"]


def test_of_a_zip_with_a_damaged_member_the_others_are_read(tmp_path: Path) -> None:
    whole = bytearray(pack("x.zip", {f"{'n' * 300}{n}.txt": f"text {n} {'word ' * n}" for n in range(4)}))
    whole[whole.index(b"1.txt") + 9] ^= 1  # in the content of the second one
    (tmp_path / "x.zip").write_bytes(whole)
    with pytest.raises(UserError, match="broken archive member"):
        read(tmp_path / "x.zip")
    found = read(tmp_path / "x.zip", faults="skip")
    assert [text[:6] for text in texts(found)] == ["text 0", "text 2", "text 3"]
    assert [item.reason for item in found if isinstance(item, Reject)] == ["broken archive member"]
    named = pack("x.zip", {"名.txt": "text"})
    (tmp_path / "x.zip").write_bytes(named.replace("名".encode(), b"\xff\xfe\xfd"))
    with pytest.raises(UserError, match="broken archive"):
        read(tmp_path / "x.zip")


def test_a_member_with_a_password_is_told_as_such(tmp_path: Path) -> None:
    whole = bytearray(pack("x.zip", {"0.txt": "text 0", "1.txt": "text 1"}))
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # of the first member, in its own head and in the directory
        whole[whole.index(mark) + flags] |= 1
    (tmp_path / "x.zip").write_bytes(whole)
    with pytest.raises(UserError, match="it is encrypted: unpack the archive with its password"):
        read(tmp_path / "x.zip")
    found = read(tmp_path / "x.zip", faults="skip")
    assert texts(found) == ["text 1"] and len(found) == 2


def test_a_link_in_a_zip_is_no_text(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "text")
        archive.writestr(link, "a.txt")
    found = read(tmp_path / "x.zip")
    assert texts(found) == ["text"]
    assert [item.reason for item in found if isinstance(item, Reject)] == ["a member that is not read (link)"]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.tar.gz", "x.zip"])
def test_an_archive_that_grows_as_no_text_does_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 64 MiB on; here from 1 MiB."""
    monkeypatch.setattr(packed_files, "_FREE_BYTES", 1 << 20)
    monkeypatch.setattr(archive_members, "_LARGE_BYTES", 1 << 20)
    bomb = json.dumps({"text": "a" * (2 << 20)})
    whole = gzip.compress(bomb.encode()) if "jsonl" in name else pack(name, {"a.jsonl": bomb, "b.txt": "text"})
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(UserError, match=r"larger than text can|no text can"):
        read(tmp_path / name)
    if name == "x.zip":
        assert texts(read(tmp_path / name, faults="skip")) == ["text"]


def test_files_of_an_archive_are_not_joined(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar({"a.txt": "x"}))
    with pytest.raises(UserError, match="cannot be joined"):
        read(tmp_path / "x.tar", join={"by": "folder"})


def warc(pages: list[tuple[str, str, bytes]], pack: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    """A WARC file of ``(url, status and headers, body)``: one gzip frame for each record, as crawlers write them."""
    packed = b""
    for number, (url, head, body) in enumerate(pages):
        content = head.encode() + b"\r\n\r\n" + body
        lines = ["WARC/1.0", "WARC-Type: response", f"WARC-Target-URI: {url}", f"WARC-Record-ID: <urn:uuid:{number}>"]
        lines += ["WARC-Date: 2026-01-01T00:00:00Z", "Content-Type: application/http; msgtype=response"]
        lines += [f"Content-Length: {len(content)}", "", ""]
        packed += pack("\r\n".join(lines).encode() + content + b"\r\n\r\n")
    return packed


def test_a_web_archive_gives_the_main_text_of_its_pages(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    html = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8"
    pages = [
        ("http://x/1", html, PAGE.encode()),
        ("http://x/2", "HTTP/1.1 404 Not Found\r\nContent-Type: text/html", b"no"),
    ]
    pages += [
        ("http://x/3", "HTTP/1.1 200 OK\r\nContent-Type: image/png", b"\x89PNG"),
        ("http://x/4", html, PAGE.encode()),
    ]
    (tmp_path / "x.warc.gz").write_bytes(warc(pages))
    (tmp_path / "page.html").write_text(PAGE)
    found = read(tmp_path / "x.warc.gz")
    assert texts(found) == texts(read(tmp_path / "page.html")) * 2
    assert [item.reason for item in found if isinstance(item, Reject)] == ["no page of text", "no page of text"]
    (tmp_path / "torn.warc.gz").write_bytes(warc(pages)[:-40])
    with pytest.raises(UserError, match="archive is incomplete"):
        read(tmp_path / "torn.warc.gz")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda whole: whole[:-30], "bytes of a record are missing"),
        (lambda whole: whole[: whole.rindex(b"HTTP/")], "bytes of a record are missing"),
        (lambda whole: whole[: whole.rindex(b"WARC-Date")], "ends within the fields"),
        (lambda whole: whole.replace(b"Content-Length: 9", b"Content-Length: 8"), "not followed by an empty line"),
        (lambda whole: whole.replace(b"Content-Length: 9", b"Content-Length: x9"), "not a number of bytes"),
        (lambda whole: whole.replace(b"WARC/1.0", b"\0\0\0\0\0\0\0\0"), "must begin with WARC/"),
        (lambda whole: whole.replace(b"response\r", b"request\r"), "no record of a page"),
    ],
)
def test_a_web_archive_that_breaks_off_is_told(tmp_path: Path, fault: Callable[[bytes], bytes], told: str) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain"
    pages = [(f"http://x/{n}", head, f"page {n} {'word ' * 8}".encode()) for n in range(3)]
    whole = warc(pages, bytes)
    (tmp_path / "x.warc").write_bytes(whole)
    assert texts(read(tmp_path / "x.warc")) == [body.decode() for *_, body in pages]
    assert fault(whole) != whole
    (tmp_path / "x.warc").write_bytes(fault(whole))
    with pytest.raises(UserError, match=told):
        read(tmp_path / "x.warc")


def test_pages_are_taken_out_of_their_encodings(tmp_path: Path) -> None:
    head, body = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n", "正文 of a page. ".encode() * 20
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:100], body[100:])) + b"0\r\n\r\n"
    deflated = zlib.compress(body)
    pages = [
        ("http://x/0", f"{head}Transfer-Encoding: chunked", chunked),
        ("http://x/1", f"{head}Content-Encoding: gzip", gzip.compress(body)),
        ("http://x/2", f"{head}Content-Encoding: deflate", deflated),
        ("http://x/3", f"{head}Content-Encoding: deflate", deflated[2:-4]),
        ("http://x/4", f"{head}Content-Encoding: gzip\r\nTransfer-Encoding: chunked", body),  # decoded by the crawler
        ("http://x/5", f"{head}Content-Encoding: gzip", gzip.compress(body)[:-9]),
        ("http://x/6", f"{head}Transfer-Encoding: chunked", chunked[:-40]),
        ("http://x/7", f"{head}Content-Encoding: br", body),
        ("http://x/8", f"{head}Content-Encoding: gzip", gzip.compress(body[:100]) + gzip.compress(body[100:])),
    ]
    (tmp_path / "x.warc.gz").write_bytes(warc(pages))
    found = read(tmp_path / "x.warc.gz")
    assert texts(found) == [body.decode()] * 6
    whys = [item.why.partition(":")[0] for item in found if isinstance(item, Reject)]
    assert whys == ["its gzip is not complete", "its parts are damaged", "encoded as br"]


@pytest.mark.parametrize(
    ("told", "encoding"),
    [
        ("charset=gb18030; x=y", "gb18030"),
        ("charset=hex", "utf-8"),
        ("charset=idna", "utf-8"),
        ("charset=Unicode_Escape", "utf-8"),
        ("charset=no\0thing", "utf-8"),
        ("title=a\x85b; charset=big5", "big5"),
    ],
)
def test_a_page_is_decoded_as_its_field_says(tmp_path: Path, told: str, encoding: str) -> None:
    body = "正文也要讀得對。".encode(encoding)
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; {told}\r\n\r\n".encode("latin-1")
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: {len(http + body)}\r\n\r\n".encode()
    (tmp_path / "x.warc").write_bytes(head + http + body + b"\r\n\r\n")
    assert texts(read(tmp_path / "x.warc")) == ["正文也要讀得對。"]


@pytest.mark.parametrize("field", ["WARC-Truncated: length", "WARC-Segment-Number: 1"])
def test_a_page_that_a_crawler_cut_is_counted_and_not_read(tmp_path: Path, field: str) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain"
    whole = warc([("http://x/1", head, b"The begin of a page"), ("http://x/2", head, b"A page")], bytes)
    (tmp_path / "x.warc").write_bytes(whole.replace(b"WARC-Type", field.encode() + b"\r\nWARC-Type", 1))
    found = read(tmp_path / "x.warc")
    assert texts(found) == ["A page"]
    [cut] = [item.why for item in found if isinstance(item, Reject)]
    assert cut in ("cut by the crawler (length): http://x/1", "one of several segments: http://x/1")


def test_pages_are_those_of_warcio(tmp_path: Path) -> None:
    iterator = pytest.importorskip("warcio.archiveiterator").ArchiveIterator
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8"
    pages = [(f"http://x/{n}", head, f"第 {n} page {'word ' * (n % 50)}".encode()) for n in range(300)]
    (tmp_path / "x.warc.gz").write_bytes(warc(pages))
    with (tmp_path / "x.warc.gz").open("rb") as file:
        theirs = [
            (page.rec_headers.get_header("WARC-Record-ID"), page.content_stream().read()) for page in iterator(file)
        ]
    ours = [(item.id, item.text.encode()) for item in read(tmp_path / "x.warc.gz") if isinstance(item, Document)]
    assert ours == theirs


def test_extracted_text_of_a_crawl(tmp_path: Path) -> None:
    body = "正文。".encode()
    head = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://x\r\nContent-Type: text/plain\r\n"
    head += f"Content-Length: {len(body)}"
    (tmp_path / "x.warc.wet.gz").write_bytes(gzip.compress(head.encode() + b"\r\n\r\n" + body + b"\r\n\r\n"))
    assert texts(read(tmp_path / "x.warc.wet.gz")) == ["正文。"]


def test_each_line_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("one\r\n\ntwo\n三".encode())
    found = read(tmp_path / "x.txt", options={"document": "line"})
    assert [(item.id, item.text) for item in found if isinstance(item, Document)] == [
        ("x.txt:1", "one"),
        ("x.txt:3", "two"),
        ("x.txt:4", "三"),
    ]
    (tmp_path / "x.html").write_text(PAGE)
    with pytest.raises(UserError, match="has no lines of text"):
        read(tmp_path, options={"document": "line"})


def test_a_field_inside_of_fields(tmp_path: Path) -> None:
    records = [{"meta": {"body": {"text": "deep"}}}, {"meta.body.text": "by its own name"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert texts(read(tmp_path / "x.jsonl", text_key="meta.body.text")) == ["deep", "by its own name"]
    with pytest.raises(UserError, match="must contain the text; found keys meta"):
        read(tmp_path / "x.jsonl", text_key="meta.other")


def test_a_conversation_inside_of_a_field_loses_nothing(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    options = {"messages_key": "data.turns", "template": "chat"}
    (tmp_path / "x.jsonl").write_text(json.dumps({"data": {"turns": turns}}))
    assert texts(read(tmp_path / "x.jsonl", role="instruction", options=options)) == ["q\n\na"]
    (tmp_path / "x.jsonl").write_text(json.dumps({"data": {"turns": turns, "mood": "bad"}}))
    with pytest.raises(UserError, match="mood"):
        read(tmp_path / "x.jsonl", role="instruction", options=options)
    (tmp_path / "x.jsonl").write_text(json.dumps({"data": {"q": "why?", "a": "so."}}))
    pair = {"prompt_key": "data.q", "answer_key": "data.a"}
    assert texts(read(tmp_path / "x.jsonl", role="instruction", options=pair)) == ["why?\nso."]


@pytest.fixture
def bucket() -> Iterator[Callable[[str, str | bytes], str]]:
    """Puts a file into a store that lies in memory, and returns its address."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")

    def put(name: str, content: str | bytes) -> str:
        system.pipe_file(f"/bucket/{name}", content.encode() if isinstance(content, str) else content)
        return f"memory://bucket/{name}"

    yield put
    system.rm("/bucket", recursive=True)


def test_files_on_the_network_read_as_plain_files(tmp_path: Path, bucket: Callable[[str, str | bytes], str]) -> None:
    files = {**TEXTS, "b/four.jsonl.gz": gzip.compress(LINES.encode()), "b/x.zip": pack("x.zip", TEXTS)}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        bucket(name, content)
    bucket(".cache/a.txt", "hidden"), bucket("b/x.png", "image")
    plain, there = read(tmp_path), read("memory://bucket")
    assert [(item.id, getattr(item, "text", "")) for item in there] == [
        (item.id, getattr(item, "text", "")) for item in plain
    ]
    source = Source.model_validate({"name": "s", "path": "memory://bucket", "role": "general"})
    assert digest_files(source) == digest_files(source.model_copy(update={"path": str(tmp_path)}))
    assert [(unread.sort, unread.files) for unread in source_files(source).unread] == [("(hidden)", 1), (".png", 1)]
    assert texts(read("memory://bucket/a/*.txt")) == [TEXTS["a/one.txt"]]
    assert texts(read("memory://bucket/a/one.txt")) == [TEXTS["a/one.txt"]]


def test_files_without_a_suffix_are_read_on_the_network_too(
    tmp_path: Path, bucket: Callable[[str, str | bytes], str]
) -> None:
    """Spark's parts by their first bytes; a file that is named by itself also where it is text."""
    files = {"part-0": LINES, "part-1.gz": gzip.compress(LINES.encode()), "README": "read me", "c.jsonl": LINES}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        bucket(name, content)
    assert texts(read("memory://bucket")) == texts(read(tmp_path)) == 3 * texts(read(tmp_path / "c.jsonl"))
    for name in files:
        assert texts(read(f"memory://bucket/{name}")) == texts(read(tmp_path / name))


def test_files_on_the_web_are_read_by_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fsspec's HTTPFileSystem has them: a file is named by its whole address, and a server may tell no size."""
    fsspec = pytest.importorskip("fsspec")
    held = {f"https://host/law/a.jsonl{query}": LINES.encode() for query in ("", "?download=true", "?at=/x/y.zip")}

    class Web(fsspec.AbstractFileSystem):  # type: ignore[misc, name-defined]
        protocol = ("http", "https")
        cachable = False

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            if path not in held:
                raise FileNotFoundError(path)
            return {"name": path, "size": None, "type": "file"}

        def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
            Path(lpath).write_bytes(held[rpath])

    monkeypatch.setitem(importlib.import_module("fsspec.registry")._registry, "https", Web)
    for address in held:
        source = Source.model_validate({"name": "s", "path": address, "role": "general"})
        assert texts(read(address)) == [json.loads(line)["text"] for line in LINES.splitlines()]
        assert [file.shown for file in source_files(source).files] == [address]
        assert [*digest_files(source)] == ["a.jsonl"]


def test_a_fault_on_the_network_names_the_address(bucket: Callable[[str, str | bytes], str]) -> None:
    address = bucket("a.jsonl", '{"text": "fine"}\n{"text": \n')
    with pytest.raises(UserError, match=r"memory://+bucket/a\.jsonl, line 2"):
        read(address)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("memory://bucket-that-is-not/x.jsonl", "has no files"),
        ("nosuch://bucket/x.jsonl", "cannot be read"),
        ("memory://", "has no files"),
    ],
)
def test_an_address_that_cannot_be_read_is_an_error(path: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        read(path)


def test_an_encoding_that_nobody_knows_is_taken_for_utf8(tmp_path: Path) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset="
    pages = [
        ("http://x/1", head + "no-such", "正文".encode()),
        ("http://x/2", head + '"gb18030"', "正文".encode("gb18030")),
    ]
    (tmp_path / "x.warc.gz").write_bytes(warc(pages))
    assert texts(read(tmp_path / "x.warc.gz")) == ["正文"] * 2


def test_prompts_in_an_archive_are_read_and_none_is_missed(tmp_path: Path) -> None:
    prompts = {"a.jsonl": json.dumps({"task": {"text": "a nested prompt"}}) + "\n"}
    (tmp_path / "x.zip").write_bytes(pack("x.zip", prompts))
    source = Source.model_validate({"name": "p", "path": str(tmp_path / "x.zip"), "role": "general"})
    assert [text for _, text in read_prompt_texts(source, "task.text")] == ["a nested prompt"]
    (tmp_path / "x.zip").write_bytes(pack("x.zip", {**prompts, "b.png": b"image"}))
    with pytest.raises(UserError, match="a member that is not read"):
        [*read_prompt_texts(source, "task.text")]


def test_records_are_not_joined_by_folder(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(LINES)
    with pytest.raises(UserError, match="records are not joined"):
        read(tmp_path, join={"by": "folder"})


def test_members_of_a_tar_are_not_kept_in_memory(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(50):
            entry = tarfile.TarInfo(f"{number}.txt")
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"text"))
    del archive, entry
    gc.collect()
    items = read_source(Source(name="s", path=str(tmp_path), role="general"), seed=0)
    assert len([*islice(items, 50)]) == 50
    assert sum(isinstance(each, tarfile.TarInfo) for each in gc.get_objects()) < 10
