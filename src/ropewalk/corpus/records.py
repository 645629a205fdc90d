"""Records, one mapping each, out of JSON lines, JSON, Parquet, and datasets on disk or on the hub.

Everything streams: a file of a million records, or one record as large as a library, never stands in memory whole
beside its neighbours.
"""

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from ropewalk.core.error import UserError
from ropewalk.corpus.archive import TornArchiveError, content_bytes, read_chunks, read_lines
from ropewalk.corpus.faults import Place, decode, encoding_of, missing_library, reject
from ropewalk.corpus.reject import Reject
from ropewalk.corpus.spec import Source

Found = tuple[Place, object] | Reject
"""A record (which may be no mapping yet) with its place, or why there is none."""
_PARQUET_ROWS = 64
_LONG_BYTES = 1 << 24
"""From here on JSON is read out of its bytes: as a text it can be four times as large, beside a value as large."""
_PART_CHARACTERS = 1 << 20
_SPACE = " \t\r\n"


def read_records(path: Path, source: Source) -> Iterator[Found]:
    """The records of one file, by its ending. A torn archive is a fault after its last whole record."""
    if path.suffix.lower() == ".parquet":
        yield from _read_parquet(path, source)
        return
    is_lines = ".jsonl" in path.name.lower()
    try:
        yield from _read_jsonl(path, source) if is_lines else _read_json(path, source)
    except TornArchiveError as torn:
        if source.faults == "error":
            raise
        place = Place(str(path), torn.line, torn.done_bytes)
        yield reject(source, place, "torn archive", torn.why, size_bytes=0)


def read_saved(source: Source) -> Iterator[Found]:
    """The rows of a dataset that `datasets` saved to disk."""
    load_from_disk = _library(source).load_from_disk
    with _readable(source):
        data = load_from_disk(source.path)
        if hasattr(data, "keys"):
            data = _split(data, source)
        yield from _number_rows(str(source.path), data)


def read_hub(source: Source) -> Iterator[Found]:
    """The rows of a dataset on the hub; streamed only where a part of it is asked for."""
    load_dataset = _library(source).load_dataset
    options = source.record_options.model_dump(include={"config", "split", "revision"})
    with _readable(source):
        rows: Iterable[Mapping[str, Any]] = load_dataset(
            source.hub,
            options["config"],
            split=options["split"],
            revision=options["revision"],
            streaming=source.size_bytes is not None,
        )
        yield from _number_rows(str(source.hub), rows)


def _number_rows(name: str, rows: Iterable[object]) -> Iterator[Found]:
    numbers = count()
    for row in rows:
        held = [row]
        del row  # it can be a book: whoever takes it is its only holder, which enumerate would not allow
        yield Place(f"{name}, row {next(numbers)}", 1, 0), held.pop()


def _library(source: Source) -> Any:
    try:
        import datasets
    except ImportError as fault:
        raise missing_library(source, "Hugging Face datasets", fault, library="datasets", extra="hub") from None
    return datasets


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    """Tell what the library says of a dataset that it does not find, reach or know."""
    try:
        yield
    except (OSError, ValueError) as error:  # its own errors, and that of a network that is not there, are among them
        said = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            "the dataset cannot be read",
            where=f"source {source.name}: {source.path or source.hub}",
            why=said[0],
            fix="check name, config, split, revision and network; or save it to a folder and give its `path`"
            if source.hub
            else "give the folder that `save_to_disk` wrote",
        ) from error


def _split(data: Any, source: Source) -> Any:
    wanted = source.record_options.model_dump()["split"]
    if wanted not in data:
        raise UserError(
            "the dataset has no such split",
            where=f"source {source.name}: {source.path}",
            why=f"{wanted!r} is not among {', '.join(data.keys())}",
            fix="name one of them in options.split",
        )
    return data[wanted]


def _read_jsonl(path: Path, source: Source) -> Iterator[Found]:
    for number, offset, content in read_lines(path):
        line = [content] if content.strip() else []
        del content  # a record can be a book: while it is looked at, nobody should hold its line
        if line:
            yield _read_line(line.pop(), source, Place(str(path), number, offset))


def _read_line(content: bytes, source: Source, place: Place) -> Found:
    size_bytes = len(content)
    if size_bytes >= _LONG_BYTES and encoding_of(source) == "utf-8":
        # What this parser refuses, the other one judges, which says where it is broken.
        with suppress(ValueError):
            return place, from_json(content)
    text = decode(content, source, place)
    del content
    if isinstance(text, Reject):
        return text
    try:
        return place, json.loads(text)
    except json.JSONDecodeError as error:
        at = replace(place, offset=place.offset + len(text[: error.pos].encode(encoding_of(source), "replace")))
        return reject(
            source, at, "broken JSON line", error.msg.removesuffix(" starting at"), size_bytes=size_bytes, text=text
        )
    except (RecursionError, ValueError) as error:  # brackets a thousand deep, numbers of 5,000 digits
        return reject(source, place, "broken JSON line", str(error), size_bytes=size_bytes, text=text)


def _read_json(path: Path, source: Source) -> Iterator[Found]:
    """The elements of a list as they come, or the one value of a file."""
    place = Place(str(path), 1, 0)
    if encoding_of(source) == "utf-8" and (whole := _read_long_object(path)):
        yield place, whole.pop()
        return
    stream = _TextStream(path, source)
    try:
        stream.skip_space()
        if stream.peek() != "[":
            yield place, stream.read_value()
        else:
            yield from _read_elements(stream, str(path))
        stream.skip_space()
        if stream.peek():
            raise json.JSONDecodeError("Extra data", stream.text, stream.at)
    except UnicodeDecodeError as error:
        at = replace(place, offset=stream.bytes_before + error.start)
        why = f"{error.reason}: 0x{error.object[error.start]:02x}"
        yield reject(source, at, "invalid UTF-8", why, size_bytes=len(error.object))
    except (RecursionError, ValueError) as error:
        message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        at = replace(place, offset=stream.offset)
        text = stream.text[max(0, stream.at - 100) : stream.at + 100]
        yield reject(
            source, at, "broken JSON file", message, size_bytes=len(stream.text.encode("utf-8", "replace")), text=text
        )


def _read_long_object(path: Path) -> list[object]:
    """The one object of a long file, read like a long line; nothing where it is not as simple as that."""
    if content_bytes(path) < _LONG_BYTES or next(read_chunks(path), b"")[:1] != b"{":
        return []
    with suppress(ValueError):
        return [from_json(b"".join(read_chunks(path)))]
    return []


def _read_elements(stream: "_TextStream", path: str) -> Iterator[Found]:
    stream.at += 1
    number = 0
    stream.skip_space()
    if stream.peek() == "]":
        stream.at += 1
        return
    while True:
        number += 1
        stream.skip_space()
        offset = stream.offset
        value = [stream.read_value()]
        if stream.at >= _LONG_BYTES:  # while it is looked at, nobody should hold its text
            stream.let_go()
        yield Place(f"{path}, record {number}", 1, offset), value.pop()
        stream.skip_space()
        sign = stream.peek()
        if sign not in (",", "]"):
            raise json.JSONDecodeError(
                "Expecting ',' delimiter" if sign else "the list has no end", stream.text, stream.at
            )
        stream.at += 1
        if sign == "]":
            return


class _TextStream:
    """A file's text as far as it is needed: ``text[at:]`` is what was read and not yet taken."""

    def __init__(self, path: Path, source: Source) -> None:
        self._chunks = read_chunks(path)
        errors = "replace" if source.faults == "replace" else "strict"
        encoding = encoding_of(source)
        self._decode = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)(errors).decode
        self._ended = False
        self.bytes_before = 0
        self._taken_bytes = 0
        self.text, self.at = "", 0

    @property
    def offset(self) -> int:
        """About where ``at`` is in the file, in bytes."""
        return self._taken_bytes + self._count_taken()

    def peek(self) -> str:
        """The next character; nothing at the end."""
        while self.at >= len(self.text) and self._read_more():
            pass
        return self.text[self.at : self.at + 1]

    def skip_space(self) -> None:
        while (sign := self.peek()) and sign in _SPACE:
            self.at += 1

    def read_value(self) -> object:
        """The next JSON value. Raises JSONDecodeError where the file ends or breaks in it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError:
                # Twice as much each time, so that a huge value is not tried a thousand times.
                if not self._read_more(len(self.text) - self.at):
                    raise
                continue
            if end == len(self.text) and self._read_more():
                continue  # a number may go on
            self.at = end
            return value

    def let_go(self) -> None:
        """Forget what was taken."""
        self._taken_bytes += self._count_taken()
        self.text, self.at = self.text[self.at :], 0

    def _read_more(self, at_least: int = 1) -> bool:
        if self._ended:
            return False
        self.let_go()
        parts, self.text, got = [self.text], "", 0
        while got < max(1, at_least) and not self._ended:
            chunk = next(self._chunks, b"")
            self._ended = not chunk
            parts.append(self._decode(chunk, final=self._ended))
            self.bytes_before += len(chunk)
            got += len(parts[-1])
        self.text = "".join(parts)
        return got > 0

    def _count_taken(self) -> int:
        """Bytes of what was taken since the last time; in parts, as it can be a book."""
        borders = pairwise([*range(0, self.at, _PART_CHARACTERS), self.at])
        return sum(len(self.text[start:end].encode("utf-8", "replace")) for start, end in borders)


_DECODER = json.JSONDecoder()


def _read_parquet(path: Path, source: Source) -> Iterator[Found]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as fault:
        raise missing_library(source, "Parquet files", fault, library="pyarrow", extra="parquet") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                rows = batch.to_pylist()[::-1]
                while rows:
                    yield Place(f"{path}, row {number}", 1, 0), rows.pop()
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0]
        size = path.stat().st_size if number == 0 else 0
        yield reject(source, Place(f"{path}, row {number}", 1, 0), "broken Parquet file", why, size_bytes=size)
