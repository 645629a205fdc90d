"""Reads the JSON values of a file one after the other: the elements of a list, or the single value of the file.

A list of a million records is never in memory as a whole, and a record is never in memory together with its neighbours.
"""

import codecs
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

from pydantic_core import from_json

from ropewalk.core.owned import Owned
from ropewalk.corpus.read.archive import content_bytes, read_chunks
from ropewalk.corpus.read.bad_input import Found, Place, reject
from ropewalk.corpus.read.encodings import guess_encoding
from ropewalk.corpus.read.files import File
from ropewalk.corpus.spec import Source

LONG_BYTES = 1 << 24
"""From this size on, JSON is parsed from its bytes. As text it can be four times as large, and the value takes as much
memory again."""
_PART_CHARACTERS = 1 << 20
_SPACE = " \t\r\n"


def read_json_records(file: File, source: Source, encoding: str) -> Iterator[Found]:
    """Yield the elements of the list in a file, or the single value of the file. Raises TornArchiveError."""
    place = Place.of(file)
    if encoding == "utf-8" and (whole := _read_long_object(file)) is not None:
        yield place, whole.take()
        return
    stream = _TextStream(file, encoding, errors="replace" if source.faults == "replace" else "strict")
    try:
        stream.skip_space()
        if stream.peek() != "[":
            yield place, stream.read_value()
        else:
            yield from _read_elements(stream, place)
        stream.skip_space()
        if stream.peek():
            raise json.JSONDecodeError("Extra data", stream.text, stream.at)
    except UnicodeDecodeError as error:
        at = replace(place, offset=stream.bytes_before + error.start)
        why = f"{error.reason}: 0x{error.object[error.start]:02x}"
        why += guess_encoding(error.object, error.start, encoding)
        name = "UTF-8" if encoding == "utf-8" else encoding
        yield reject(source, at, f"invalid {name}", why, size_bytes=len(error.object))
    except (RecursionError, ValueError) as error:
        message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        at = replace(place, offset=stream.offset)
        text = stream.text[max(0, stream.at - 100) : stream.at + 100]
        yield reject(
            source, at, "broken JSON file", message, size_bytes=len(stream.text.encode("utf-8", "replace")), text=text
        )


def _read_long_object(file: File) -> Owned[object] | None:
    """The single object of a long file, which is parsed like a long line; None for any other file."""
    if content_bytes(file.path) < LONG_BYTES or next(read_chunks(file.path), b"")[:1] != b"{":
        return None
    with suppress(ValueError):
        return Owned(from_json(b"".join(read_chunks(file.path))))
    return None


def _read_elements(stream: "_TextStream", place: Place) -> Iterator[Found]:
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
        value = Owned(stream.read_value())
        if stream.at >= LONG_BYTES:  # free its text while the caller uses the value
            stream.let_go()
        yield replace(place, part=f"record {number}", offset=offset), value.take()
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
    """The text of a file, read only as far as needed. ``text[at:]`` was read and is not used yet."""

    def __init__(self, file: File, encoding: str, *, errors: str) -> None:
        self._chunks = read_chunks(file.path)
        self._decode = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)(errors).decode
        self._ended = False
        self.bytes_before = 0
        self._taken_bytes = 0
        self.text, self.at = "", 0

    @property
    def offset(self) -> int:
        """The approximate position of ``at`` in the file, in bytes."""
        return self._taken_bytes + self._count_taken()

    def peek(self) -> str:
        """The next character; an empty string at the end."""
        while self.at >= len(self.text) and self._read_more():
            pass
        return self.text[self.at : self.at + 1]

    def skip_space(self) -> None:
        while (sign := self.peek()) and sign in _SPACE:
            self.at += 1

    def read_value(self) -> object:
        """The next JSON value. Raises JSONDecodeError where the file ends within it, or where it is no valid JSON."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError:
                # Read twice as much each time, so that a huge value is not parsed a thousand times.
                if not self._read_more(len(self.text) - self.at):
                    raise
                continue
            if end == len(self.text) and self._read_more():
                continue  # a number may continue in the next chunk
            self.at = end
            return value

    def let_go(self) -> None:
        """Drop the text that was used."""
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
        """Bytes of the text used since the last call. They are counted in parts, because the text can be a book."""
        borders = pairwise([*range(0, self.at, _PART_CHARACTERS), self.at])
        return sum(len(self.text[start:end].encode("utf-8", "replace")) for start, end in borders)


_DECODER = json.JSONDecoder()
