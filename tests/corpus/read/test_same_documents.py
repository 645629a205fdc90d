"""The same documents in every format, at every place, by digest: a folder, a store in memory, a local S3."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from programs import load_program
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source

BUCKET = "texts"


def digest(path: str) -> str:
    source = Source.model_validate({"name": "s", "path": path, "role": "general"})
    found = [item.text for item in read_source(source, seed=0) if isinstance(item, Document)]
    assert len(found) == 12
    return digest_value(sorted(found))


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Twelve documents, in a file of each format that can hold several."""
    program = load_program("malformed", monkeypatch)
    texts = program.make_texts()
    made = {f"a.{name}": make(texts) for name, make in program.FORMATS.items() if not name.startswith("txt")}
    long = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=31, enable_ldm=True)
    )
    return {**made, "long.jsonl.zst": long.compress(program.lines(texts))}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that speaks S3, which fsspec uses for s3://."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    pytest.importorskip("s3fs")
    from fsspec.config import conf

    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    options: dict[str, Any] = {"key": "k", "secret": "s", "endpoint_url": address, "skip_instance_cache": True}
    monkeypatch.setitem(conf, "s3", options)
    yield address
    server.stop()


def test_every_format_gives_the_documents_of_lines(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    found = {name: digest(str(tmp_path / name)) for name in files}
    assert set(found.values()) == {found["a.jsonl"]} and len(found) > 20, found


def test_a_store_in_memory_gives_the_documents_of_files(files: dict[str, bytes], tmp_path: Path) -> None:
    system = pytest.importorskip("fsspec").filesystem("memory")
    (tmp_path / "a.jsonl").write_bytes(files["a.jsonl"])
    for name, content in files.items():
        system.pipe_file(f"/{BUCKET}/{name}", content)
    plain = digest(str(tmp_path / "a.jsonl"))
    assert {name: digest(f"memory://{BUCKET}/{name}") for name in files} == dict.fromkeys(files, plain)
    system.rm(f"/{BUCKET}", recursive=True)


def test_s3_gives_the_documents_of_files(files: dict[str, bytes], endpoint: str, tmp_path: Path) -> None:
    import s3fs

    system = s3fs.S3FileSystem(key="k", secret="s", endpoint_url=endpoint, skip_instance_cache=True)
    system.mkdir(BUCKET)
    (tmp_path / "a.jsonl").write_bytes(files["a.jsonl"])
    for name, content in files.items():
        system.pipe_file(f"{BUCKET}/one/{name}", content)
    plain = digest(str(tmp_path / "a.jsonl"))
    assert {name: digest(f"s3://{BUCKET}/one/{name}") for name in files} == dict.fromkeys(files, plain)
    assert digest(f"s3://{BUCKET}/one/*.ndjson") == plain
    for wrong in (f"s3://{BUCKET}/two/a.jsonl", "s3://no-such-bucket/a.jsonl"):
        with pytest.raises(UserError, match=r"has no files|cannot be read"):
            digest(wrong)


def test_a_store_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    from fsspec.config import conf

    options = {
        "key": "k",
        "secret": "s",
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }
    monkeypatch.setitem(conf, "s3", options)
    with pytest.raises(UserError, match="cannot be read"):
        digest(f"s3://{BUCKET}/a.jsonl")
