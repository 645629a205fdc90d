"""The places of a source's stored documents in joins: which group each belongs to, and all of them in order.

The order depends on keys, order fields and ids alone, never on the order in which the text was read.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from ropewalk.core.read_json import read_written_lines
from ropewalk.corpus.join.natural_order import Comparable, order_naturally
from ropewalk.corpus.read.join_parts import PART


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


@dataclass(slots=True)
class _Part:
    number: int
    id: str
    answers: str | None
    order: tuple[Comparable, ...]


def read_places(store: Path, digests: UInt64[np.ndarray, "documents"]) -> Places:
    """The places of all documents of a source's folder in the store."""
    members: dict[tuple[str, ...], list[_Part]] = defaultdict(list)
    headers: list[str] = []
    in_circle = 0
    for entry in read_written_lines(store / "documents.jsonl", dict, appended=False):
        if "dropped" in entry:
            continue
        place: dict[str, Any] = entry[PART]
        order = tuple(order_naturally(value) for value in place["order"])
        members[tuple(place["key"])].append(_Part(len(headers), str(entry["id"]), place.get("answers"), order))
        headers.append(place.get("header", ""))
        in_circle += place.get("in_circle", False)
    assert len(headers) == len(digests)
    group = np.empty(len(headers), dtype=np.int64)
    ordered: list[int] = []
    for number, key in enumerate(sorted(members, key=lambda key: ([order_naturally(value) for value in key], key))):
        parts = sorted(members[key], key=lambda part: (part.order, order_naturally(part.id), int(digests[part.number])))
        if any(part.answers is not None for part in parts):
            parts, circles = _read_depth_first(parts)
            in_circle += circles
        group[[part.number for part in parts]] = number
        ordered += [part.number for part in parts]
    return Places(group, np.array(ordered, dtype=np.int64), headers, in_circle)


def unplaced(digests: UInt64[np.ndarray, "documents"]) -> Places:
    """The places of documents that are not joined by what they say: each is a group, and their texts order them."""
    return Places(np.arange(len(digests), dtype=np.int64), np.argsort(digests, kind="stable"), [""] * len(digests), 0)


def _read_depth_first(parts: Sequence[_Part]) -> tuple[list[_Part], int]:
    """Each part before its answers, the answers in their order; and the number of parts that answer in a circle.

    A part whose question is not there begins a tree of its own. A circle begins with its first part.
    """
    known = {part.id for part in parts}
    answers: dict[str | None, list[_Part]] = defaultdict(list)
    for part in parts:
        answers[part.answers if part.answers in known else None].append(part)
    seen: set[int] = set()
    found: list[_Part] = []

    def walk(root: _Part) -> Iterator[_Part]:
        waiting = [root]
        while waiting:
            part = waiting.pop()
            if part.number in seen:
                continue
            seen.add(part.number)
            yield part
            waiting += answers.get(part.id, [])[::-1]

    for root in answers[None]:
        found += walk(root)
    in_circle = len(parts) - len(found)
    for part in parts:
        if part.number not in seen:
            found += walk(part)
    return found, in_circle
