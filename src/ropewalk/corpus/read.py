"""Documents out of whatever a source is: records, plain texts, a code tree, a hub dataset, our own generators.

Bad input is the rule in data and never passes in silence. By default the first fault stops with file, line and byte;
``faults: skip`` makes a fault a reject that the ledger counts; ``replace`` also mends text with U+FFFD.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ropewalk.core.digest import digest_file
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.embedded import embedded_documents
from ropewalk.corpus.files import CODE, LINES, RECORDS, TEXTS, content_bytes, find_files, read_lines
from ropewalk.corpus.language import judge_language
from ropewalk.corpus.spec import FileOptions, Source


@dataclass(frozen=True, slots=True)
class Reject:
    """Something that should have been a document and is none."""

    id: str
    reason: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something was read, for people."""

    file: str
    line: int
    offset: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, byte {self.offset:,}"


def read_source(source: Source, *, seed: int) -> Iterator[Document | Reject]:
    """All documents of a source in a fixed order, with what could not be one; at most ``source.size_bytes`` of text.

    Raises UserError for a fault where the source says so, and where there is no document at all.
    """
    size, documents = 0, 0
    for item in read_items(source, seed):
        documents += isinstance(item, Document)
        size += len(item.text.encode()) if isinstance(item, Document) else item.size_bytes
        yield item
        if source.size_bytes is not None and size >= source.size_bytes:
            break
    if documents == 0:
        raise without_document(source, size)


def without_document(source: Source, size_bytes: int) -> UserError:
    """What is said of a source of ``size_bytes`` that has no document at all."""
    return UserError(
        f"source {source.name} has no document",
        where=str(source.path or source.hub or source.embedded),
        why="the files are empty" if size_bytes == 0 else f"all of it ({size_bytes:,} bytes) was rejected",
        fix="correct the path or text_key, or remove the source",
    )


def source_files(source: Source) -> list[Path]:
    """The files that a ``path`` source reads."""
    assert source.path is not None
    code = source.cleaning() == "code"
    return find_files(source.path, endings=CODE + LINES if code else RECORDS + TEXTS, where=f"source {source.name}")


def digest_files(source: Source) -> dict[str, str]:
    """What a ``path`` source's files hold, by name."""
    return {str(path): digest_file(path) for path in source_files(source)}


def source_megabytes(source: Source) -> float | None:
    """About how much text a source holds, for a progress line; None where nobody can know."""
    files = None if source.path is None else sum(map(content_bytes, source_files(source)))
    sizes = [size for size in (source.size_bytes, files) if size is not None]
    return min(sizes) / 1e6 if sizes else None


def read_items(source: Source, seed: int) -> Iterator[Document | Reject]:
    """All that a source holds, without its limit of size and whether or not there is anything."""
    if source.embedded is not None:
        made = embedded_documents(source.embedded, seed=seed, size_bytes=source.size_bytes, options=source.options)
        for document in made:
            language = source.language or document.language
            yield replace(document, source=source.name, role=source.role, language=language)
    elif source.hub is not None:
        for number, record in enumerate(_open_hub(source)):
            yield _make_document(record, source, _Place(source.hub, number, 0))
    else:
        yield from _read_files(source)


def _read_files(source: Source) -> Iterator[Document | Reject]:
    paths = source_files(source)
    options = source.record_options
    assert isinstance(options, FileOptions)
    records = [path for path in paths if path.name.lower().endswith(RECORDS)]
    texts = [path for path in paths if not path.name.lower().endswith(RECORDS)]
    for path in records:
        yield from _read_json(path, source) if path.suffix == ".json" else _read_jsonl(path, source)
    for folder, members in groupby(texts, key=lambda path: path.parent if options.join == "folder" else path):
        parts = [_decode(path.read_bytes(), source, _Place(str(path), 1, 0)) for path in members]
        yield from (part for part in parts if isinstance(part, Reject))
        text = "\n\n".join(part for part in parts if isinstance(part, str))
        if text or not any(isinstance(part, Reject) for part in parts):
            yield _document(text, source, id=str(folder))


def _read_jsonl(path: Path, source: Source) -> Iterator[Document | Reject]:
    for line in read_lines(path):
        if not line.content.strip():
            continue
        place = _Place(str(path), line.number, line.offset)
        text = _decode(line.content, source, place)
        if isinstance(text, Reject):
            yield text
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            at = replace(place, offset=line.offset + len(text[: error.pos].encode()))
            yield _reject(source, at, "broken JSON line", error.msg, len(line.content))
            continue
        yield _make_document(record, source, place)


def _read_json(path: Path, source: Source) -> Iterator[Document | Reject]:
    place = _Place(str(path), 1, 0)
    text = _decode(path.read_bytes(), source, place)
    if isinstance(text, Reject):
        yield text
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        at = _Place(str(path), error.lineno, len(text[: error.pos].encode()))
        yield _reject(source, at, "broken JSON file", error.msg, len(text.encode()))
        return
    for number, record in enumerate(content if isinstance(content, list) else [content], 1):
        yield _make_document(record, source, _Place(f"{path}, record {number}", 1, 0))


def _open_hub(source: Source) -> Iterator[Mapping[str, Any]]:
    try:
        from datasets import load_dataset  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise UserError(
            "hub datasets need one more library",
            where=f"source {source.name}: hub: {source.hub}",
            why="the library `datasets` is not installed",
            fix="pip install 'ropewalk[hub]'",
        ) from None
    options = source.record_options.model_dump(include={"config", "split", "revision"})
    rows: Iterator[Mapping[str, Any]] = iter(
        load_dataset(
            source.hub,
            options["config"],
            split=options["split"],
            revision=options["revision"],
            streaming=source.size_bytes is not None,
        )
    )
    return rows


def _make_document(record: object, source: Source, place: _Place) -> Document | Reject:
    if not isinstance(record, Mapping):
        return _reject(source, place, "not a record", f"it is a {type(record).__name__}, not an object with keys", 0)
    size = sum(len(value) for value in record.values() if isinstance(value, str))
    options = source.record_options
    keys = [options.prompt_key, options.answer_key] if options.prompt_key else [source.text_key]
    for key in keys:
        if not isinstance(record.get(str(key)), str):
            found = f"keys {', '.join(map(str, record))}" if key not in record else f"a {type(record[key]).__name__}"
            return _reject(source, place, "no text", f"{key!r} should hold the text; found {found}", size)
    texts = [record[str(key)] for key in keys]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        if source.faults != "replace":
            return _reject(source, place, "invalid text", f"half a surrogate pair, character {error.start}", size)
        texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    spans = record.get("loss_spans")
    if options.prompt_key:
        text = f"{texts[0]}\n{texts[1]}"
        spans = [(len(texts[0]) + 1, len(text))]
    else:
        text = texts[0]
    if spans is not None and not _are_spans(spans, len(text)):
        return _reject(
            source, place, "bad loss spans", f"{spans!r:.80} are not ranges within {len(text)} characters", size
        )
    made = _document(text, source, id=str(record.get("id", f"{place.file}:{place.line}")))
    return replace(made, loss_spans=None if spans is None else tuple((int(a), int(b)) for a, b in spans))


def _are_spans(spans: object, characters: int) -> bool:
    if not isinstance(spans, list) or not all(isinstance(s, list | tuple) and len(s) == 2 for s in spans):
        return False
    borders = [border for span in spans for border in span]
    return all(isinstance(b, int) and 0 <= b <= characters for b in borders) and borders == sorted(borders)


def _document(text: str, source: Source, *, id: str) -> Document:
    language = source.language or judge_language(text)
    return Document(text=text, source=source.name, role=source.role, language=language, id=id)


def _decode(content: bytes, source: Source, place: _Place) -> str | Reject:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if source.faults == "replace":
            return content.decode("utf-8", "replace")
        at = replace(place, offset=place.offset + error.start, line=place.line + content[: error.start].count(b"\n"))
        return _reject(source, at, "invalid UTF-8", f"{error.reason}: 0x{content[error.start]:02x}", len(content))


def _reject(source: Source, place: _Place, reason: str, why: str, size_bytes: int) -> Reject:
    """A fault as a reject that the ledger counts, or as an error where the source is to have none."""
    if source.faults != "error":
        return Reject(str(place), reason, size_bytes)
    raise UserError(
        f"{reason} in source {source.name}",
        where=str(place),
        why=why,
        fix="mend the file, or set faults: skip on this source to drop and count such documents",
    )
