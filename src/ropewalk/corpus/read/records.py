"""Reads records (each is one mapping) from JSON lines, JSON, tables, Parquet, archives, and datasets.

All formats are streamed. A file of a million records is never in memory as a whole, and a record as large as a library
is never in memory together with its neighbours.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from pydantic_core import from_json

from ropewalk.core.error import UserError
from ropewalk.core.owned import Owned
from ropewalk.corpus.read import json_file
from ropewalk.corpus.read.archive import Line, TornArchiveError, read_chunks, read_lines
from ropewalk.corpus.read.archive_members import read_members
from ropewalk.corpus.read.bad_input import Found, Place, decode_text, file_encoding, missing_library, reject
from ropewalk.corpus.read.csv_table import read_table
from ropewalk.corpus.read.encodings import guess_encoding, is_wide, to_utf8
from ropewalk.corpus.read.files import File
from ropewalk.corpus.read.web_archive import read_web_archive
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject
from ropewalk.shape.hub import explain_refusal

_PARQUET_ROWS = 64


def read_records(file: File, source: Source) -> Iterator[Found]:
    """Yield the records of one file, read by its kind. A torn archive is a fault after its last whole record."""
    if file.kind == "parquet":
        yield from _read_parquet(file, source)
        return
    if file.kind in ("tar", "zip"):
        yield from read_members(file, source, read_records)
        return
    if file.kind == "warc":
        yield from read_web_archive(file, source)
        return
    try:
        encoding = file_encoding(next(read_chunks(file.path), b"")[:4], source)
        yield from _read_text_file(file, source, encoding)
    except TornArchiveError as torn:
        if source.faults == "error":
            raise
        place = replace(Place.of(file), line=torn.line, offset=torn.done_bytes)
        yield reject(source, place, torn.reason, torn.why, size_bytes=0)
    except UnicodeDecodeError as error:  # from UTF-16, which is not decoded line by line
        at = replace(Place.of(file), offset=error.start)
        yield reject(source, at, f"invalid {error.encoding}", error.reason, size_bytes=len(error.object))


def _read_text_file(file: File, source: Source, encoding: str) -> Iterator[Found]:
    if file.kind == "json" and not _holds_lines(file, encoding):
        yield from json_file.read_json_records(file, source, encoding)
        return
    recode: Callable[[Iterator[bytes]], Iterator[bytes]] | None = None
    if is_wide(encoding):
        errors = "replace" if source.faults == "replace" else "strict"
        recode, encoding = partial(to_utf8, encoding=encoding, errors=errors), "utf-8"
    lines = read_lines(file.path, recode)
    if file.kind in ("csv", "tsv"):
        yield from read_table(lines, file, source, encoding)
    elif file.kind == "text":
        yield from _read_text_lines(lines, file, source, encoding)
    else:
        yield from _read_lines(lines, file, source, encoding)


def _read_lines(lines: Iterator[Line], file: File, source: Source, encoding: str) -> Iterator[Found]:
    start = Place.of(file)
    for number, offset, content in lines:
        line = Owned(content) if content.strip() else None
        del content  # a record can be a book: free its line while the caller uses the record
        if line is not None:
            place = Place(start.file, start.name, number, offset, start.part)
            yield _read_line(line.take(), source, place, encoding)


def _read_text_lines(lines: Iterator[Line], file: File, source: Source, encoding: str) -> Iterator[Found]:
    """Each line that is not empty, as a text of its own."""
    for number, offset, content in lines:
        place = replace(Place.of(file), line=number, offset=offset)
        text = decode_text(content.removesuffix(b"\r"), source, place, encoding)
        if isinstance(text, Reject):
            yield text
        elif text.strip():
            yield place, {source.text_key: text}


def _read_line(content: bytes, source: Source, place: Place, encoding: str) -> Found:
    size_bytes = len(content)
    if encoding == "utf-8":
        # If this parser refuses the line, the parser below reads it, because its error gives the position. It is the
        # faster one, and of a long line it takes less memory.
        with suppress(ValueError):
            return place, from_json(content)
    text = decode_text(content, source, place, encoding)
    zeros = guess_encoding(content, 0, encoding) if b"\0" in content else ""
    del content
    if isinstance(text, Reject):
        return text
    try:
        return place, json.loads(text)
    except json.JSONDecodeError as error:
        at = replace(place, offset=place.offset + len(text[: error.pos].encode(encoding, "replace")))
        why = error.msg.removesuffix(" starting at") + zeros
        return reject(source, at, "broken JSON line", why, size_bytes=size_bytes, text=text)
    except (RecursionError, ValueError) as error:  # such as brackets a thousand deep, or numbers of 5,000 digits
        return reject(source, place, "broken JSON line", str(error), size_bytes=size_bytes, text=text)


def _holds_lines(file: File, encoding: str) -> bool:
    """Whether a file with the suffix of JSON holds JSON lines: an object ends with its line, and another follows."""
    if is_wide(encoding):
        return False
    head = b""
    for chunk in read_chunks(file.path):
        head += chunk
        first, _, rest = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
        if rest.strip() or not first.startswith(b"{") or len(head) > json_file.LONG_BYTES:
            return first.startswith(b"{") and first.rstrip().endswith(b"}") and rest.lstrip().startswith(b"{")
    return False


def read_saved(source: Source) -> Iterator[Found]:
    """Yield the rows of a dataset that `datasets` saved to disk."""
    load_from_disk = _library(source).load_from_disk
    with _readable(source):
        data = load_from_disk(source.path)
        if hasattr(data, "keys"):
            data = _split(data, source)
        yield from _number_rows(Place(str(source.path), ""), data)


def read_hub(source: Source) -> Iterator[Found]:
    """Yield the rows of a dataset on the hub. It is streamed only where a part of it is asked for."""
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
        yield from _number_rows(Place(str(source.hub), str(source.hub)), rows)


def _number_rows(place: Place, rows: Iterable[object]) -> Iterator[Found]:
    numbers = count()
    for row in rows:
        owned = Owned(row)
        del row  # a row can be a book: only the caller may hold it, but enumerate would hold it too
        yield replace(place, part=f"row {next(numbers)}"), drop_filled(owned.take())


def drop_filled(value: Any) -> Any:
    """A row of a table without the nulls within its objects.

    A column has one type for all rows. So Arrow gives every object all keys that any object of the column has, with
    null where the author wrote nothing. A call of one tool would then show the arguments of all other tools.
    """
    if isinstance(value, Mapping):
        return {key: drop_filled(held) for key, held in value.items() if held is not None}
    return [drop_filled(held) for held in value] if isinstance(value, list) else value


def _library(source: Source) -> Any:
    try:
        import datasets
    except ImportError as fault:
        raise missing_library(source, "Hugging Face datasets", fault, library="datasets", extra="hub") from None
    return datasets


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    """Raise UserError, with the library's message, where the library does not find, reach or read a dataset."""
    try:
        yield
    except (OSError, ValueError) as error:  # this includes the library's own errors and the error of a missing network
        said = str(error).splitlines() or [type(error).__name__]
        fix = "check name, config, split, revision and network; or save the dataset to a folder and give its `path`"
        refused = None if source.hub is None else explain_refusal(error, source.hub)
        why, fix = refused or (said[0], fix if source.hub else "give the folder that `save_to_disk` wrote")
        where = f"source {source.name}: {source.path or source.hub}"
        raise UserError("the dataset cannot be read", where=where, why=why, fix=fix) from error


def _split(data: Any, source: Source) -> Any:
    wanted = source.record_options.model_dump()["split"]
    if wanted not in data:
        raise UserError(
            "the dataset has no such split",
            where=f"source {source.name}: {source.path}",
            why=f"{wanted!r} is not among {', '.join(data.keys())}",
            fix="set options.split to one of them",
        )
    return data[wanted]


def _read_parquet(file: File, source: Source) -> Iterator[Found]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as fault:
        raise missing_library(source, "Parquet files", fault, library="pyarrow", extra="parquet") from None
    number = 0
    try:
        with file.path.open("rb") as stream, parquet.ParquetFile(stream, page_checksum_verification=True) as table:
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
                rows = batch.to_pylist()[::-1]
                while rows:
                    yield replace(Place.of(file), part=f"row {number}"), drop_filled(rows.pop())
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0]
        size = file.path.stat().st_size if number == 0 else 0
        yield reject(source, replace(Place.of(file), part=f"row {number}"), "broken Parquet file", why, size_bytes=size)
