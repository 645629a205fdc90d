"""The places of a source's stored documents in joins: which group each belongs to, and all of them in order.

The order depends on keys, order fields and ids alone, never on the order in which the text was read.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Int64, UInt64

from ropewalk.core.read_json import read_written_lines
from ropewalk.corpus.join.natural_order import order_as_bytes, text_as_bytes
from ropewalk.corpus.read.join_parts import PART

_TAIL = Struct(">QQI")
"""The end of a row: the digest of a document, its number, and how many of the row's bytes are its key."""


@dataclass(frozen=True)
class Places:
    """The places of the stored documents of one source."""

    group: Int64[np.ndarray, "documents"]
    """The number of each document's group, in the natural order of the keys."""
    order: Int64[np.ndarray, "documents"]
    """The numbers of all documents, group by group, in the order of their parts."""
    headers: list[str]
    """For each document the text before it."""
    in_circle: int
    """Documents that import, or answer, each other in a circle."""
    unanswerable: int = 0
    """Documents that answer an id which no document of their group has."""
    answers: int = 0
    """Documents that answer any id."""


def read_places(store: Path, digests: UInt64[np.ndarray, "documents"]) -> Places:
    """The places of all documents of a source's folder in the store.

    Memory holds the key of each document as bytes; equal headers are one text, and ids that are answered are digests.
    """
    rows: list[bytes] = []
    headers: list[str] = []
    texts: dict[str, str] = {}
    own, asked = array("Q"), array("Q")
    in_circle = 0
    for entry in read_written_lines(store / "documents.jsonl", dict, appended=False):
        if "dropped" in entry:
            continue
        place: dict[str, Any] = entry[PART]
        id, number = str(entry["id"]), len(rows)
        rows.append(_make_row(place, id, int(digests[number]), number))
        header = place.get("header", "")
        headers.append(texts.setdefault(header, header))
        in_circle += place.get("in_circle", False)
        if "answers" in place:
            own.append(_digest_id(id))
            asked.append(_digest_id(place["answers"]))
    assert len(headers) == len(digests) and len(own) in (0, len(headers))
    rows.sort()
    order, first = _read_rows(rows)
    del rows
    if own:
        in_circle += sum(_order_answers(order[a:b], own, asked) for a, b in pairwise([*first.tolist(), len(order)]))
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.repeat(np.arange(len(first)), np.diff(first, append=len(order)))
    return Places(group, order, headers, in_circle, _count_unanswerable(group, own, asked), sum(map(bool, asked)))


def _make_row(place: Mapping[str, Any], id: str, digest: int, number: int) -> bytes:
    """What sorts a document: its key in natural order, then letter by letter; its order fields, its id, its digest."""
    key = _key_as_bytes(tuple(place["key"]))
    return b"".join([key, order_as_bytes(place["order"]), order_as_bytes([id]), _TAIL.pack(digest, number, len(key))])


@lru_cache(maxsize=1 << 10)
def _key_as_bytes(key: tuple[str, ...]) -> bytes:
    """A key in natural order, then letter by letter. The parts of a join often follow each other in a file."""
    return order_as_bytes(key) + b"".join(map(text_as_bytes, key))


def _read_rows(rows: Sequence[bytes]) -> tuple[Int64[np.ndarray, "documents"], Int64[np.ndarray, "groups"]]:
    """The documents of sorted rows, and the place among them at which each group begins."""
    order, first = np.empty(len(rows), dtype=np.int64), array("q")
    key: bytes | None = None
    for at, row in enumerate(rows):
        _, order[at], size = _TAIL.unpack_from(row, len(row) - _TAIL.size)
        if row[:size] != key:
            first.append(at)
            key = row[:size]
    return order, np.array(first, dtype=np.int64)


def _digest_id(id: str | None) -> int:
    """A digest of an id; 0 for none."""
    return 0 if id is None else max(1, xxhash.xxh3_64_intdigest(id.encode("utf-8", "surrogatepass")))


def unplaced(digests: UInt64[np.ndarray, "documents"]) -> Places:
    """The places of documents that are not joined by what they say: each is a group, and their texts order them."""
    return Places(np.arange(len(digests), dtype=np.int64), np.argsort(digests, kind="stable"), [""] * len(digests), 0)


def _count_unanswerable(group: Int64[np.ndarray, "documents"], own: Sequence[int], asked: Sequence[int]) -> int:
    """How many documents answer an id (0 for none) that no document of their group has; both are digests, or empty."""
    if not own:
        return 0
    ids, wanted = np.array(own, dtype=np.uint64), np.array(asked, dtype=np.uint64)
    mark = group.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # tells equal ids of two groups apart
    return int((~np.isin(wanted + mark, ids + mark) & (wanted != 0)).sum())


def _order_answers(parts: Int64[np.ndarray, "parts"], own: Sequence[int], asked: Sequence[int]) -> int:
    """Order the documents of a group, in place, where one of them answers something: each before its answers, the
    answers in their order. Returns the number of those that answer in a circle, which begins with its first part.

    ``own`` and ``asked`` are digests of ids. A part whose question is not there begins a tree of its own.
    """
    members: list[int] = parts.tolist()
    if not any(asked[part] for part in members):
        return 0
    known = {own[part] for part in members}
    answers: dict[int, list[int]] = defaultdict(list)
    for part in members:
        answers[asked[part] if asked[part] in known else 0].append(part)
    seen: set[int] = set()
    found: list[int] = []

    def walk(root: int) -> Iterator[int]:
        waiting = [root]
        while waiting:
            part = waiting.pop()
            if part in seen:
                continue
            seen.add(part)
            yield part
            waiting += answers.get(own[part], [])[::-1]

    for root in answers[0]:
        found += walk(root)
    in_circle = len(members) - len(found)
    for part in members:
        if part not in seen:
            found += walk(part)
    parts[:] = found
    return in_circle
