"""Reads records from a text table, CSV or TSV: the first row names the keys, and every other row is a record of texts.

Fields in quotes may hold line breaks. Only the delimiter of a .csv file is guessed, from its first row: it is a comma,
or the semicolon that spreadsheets write where numbers contain a comma.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import replace

from ropewalk.core.quantity import format_count
from ropewalk.corpus.read.archive import Line
from ropewalk.corpus.read.bad_input import Found, Place, decode_text, reject
from ropewalk.corpus.read.files import File
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject


class _Feed:
    """The lines of a table as text, with place, size and fault of the lines that were read since the last row."""

    def __init__(self, lines: Iterator[Line], place: Place, source: Source, encoding: str) -> None:
        self._lines, self._place, self._source, self._encoding = lines, place, source, encoding
        self.begin, self.size_bytes, self.fault = place, 0, None
        self._is_fresh = True

    begin: Place
    """The place where the row began."""
    fault: Reject | None
    """The first line of the row that could not be decoded."""

    def start_row(self) -> None:
        self._is_fresh, self.size_bytes, self.fault = True, 0, None

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        number, offset, content = next(self._lines)
        place = replace(self._place, line=number, offset=offset)
        if self._is_fresh:
            self.begin, self._is_fresh = place, False
        self.size_bytes += len(content) + 1
        text = decode_text(content, self._source, place, self._encoding)
        if isinstance(text, Reject):
            self.fault = self.fault or text
            text = content.decode(self._encoding, "replace")
        return text + "\n"


def read_table(lines: Iterator[Line], file: File, source: Source, encoding: str) -> Iterator[Found]:
    """Yield the records of a table. A row is a fault where it has another number of fields than the first row, or a
    quote too many."""
    csv.field_size_limit(sys.maxsize)  # a field can be as large as a book
    feed = _Feed(lines, Place.of(file), source, encoding)
    first = next((text for text in feed if text.strip()), "")
    delimiter = "\t" if file.kind == "tsv" or ("\t" in first and "," not in first) else ","
    if file.kind == "csv" and ";" in first and "," not in first:
        delimiter = ";"
    rows = csv.reader(_prepend(first, feed), delimiter=delimiter, strict=True)
    keys: list[str] | None = None
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield reject(source, feed.begin, "broken table row", str(error), size_bytes=feed.size_bytes)
            if keys is None:
                return
            feed.start_row()
            continue
        if row is None:
            return
        if feed.fault is not None:
            yield feed.fault
            if keys is None:
                return  # the next row would name the keys
        elif keys is None:
            keys = [key.strip() for key in row]
            if why := _find_fault(keys, source.text_key):
                yield reject(source, feed.begin, "broken table head", why, size_bytes=feed.size_bytes)
                return
        elif len(row) == len(keys):
            yield feed.begin, dict(zip(keys, row, strict=True))
        elif row:  # an empty line is no row
            why = (
                f"{format_count(len(row), 'field')}, but the first row has {format_count(len(keys), 'key')}: "
                f"{', '.join(keys)}"
            )
            if (other := max(";|\t", key=first.count)) != delimiter and first.count(other) >= len(keys):
                why += f"; if {other!r} separates the fields, write them with commas, or with tabs as .tsv"
            text = delimiter.join(row)
            yield reject(source, feed.begin, "broken table row", why, size_bytes=feed.size_bytes, text=text)
        feed.start_row()


def _prepend(first: str, feed: _Feed) -> Iterator[str]:
    if first:
        yield first
    yield from feed


def _find_fault(keys: list[str], text_key: str) -> str | None:
    if len(keys) == 1 and text_key != keys[0] and (other := max(";|\t,", key=keys[0].count)) in keys[0]:
        # Named as a key, it would put the other fields into the text.
        return (
            f"the first row has one key, {keys[0]!r:.80}; if {other!r} separates the fields, write them with commas as "
            ".csv, or with tabs as .tsv"
        )
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        return f"the first row must contain the keys, but {', '.join(map(repr, repeated))} is in it twice"
    return None
