"""The places of documents in joins, whose keys are bytes, against a sort of their values and a recursive reading."""

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk.corpus.join.natural_order import order_as_bytes, order_naturally, text_as_bytes
from ropewalk.corpus.join.places import read_places
from ropewalk.corpus.read.join_parts import PART

VALUES: list[str | int | float] = [
    "", "a", "a\0", "a\0b", "ab", "b", "a1", "a01", "a10", "a2", "第二章", "第十章", "第十二章",
    "亿" * 40, "1" * 400, "九" * 5000,
    "\ud800", "\uffff", "😀", " a ", "１２", "a-1",
    0, -0.0, 1, 1.0, 10, 12, 100, 1.5, 0.1, 1e-300, 5e-324, 1e300, 10**400, 2**53, 2.0**53, 2**53 + 1,
    -1, -1.5, -12, -120, -1e-9, -(2**53) - 1, -(2.0**53),
]  # fmt: skip


def test_bytes_have_the_order_of_values() -> None:
    """Of each value and each row both are made once: one of 5,000 digits takes a millisecond."""
    natural = {at: order_naturally(value) for at, value in enumerate(VALUES)}
    as_bytes = {at: order_as_bytes([value]) for at, value in enumerate(VALUES)}
    for at, to in product(natural, natural):
        one, other, left, right = natural[at], natural[to], as_bytes[at], as_bytes[to]
        assert (left < right, left == right) == (one < other, one == other), (VALUES[at], VALUES[to])
    rows = [[random.Random(n).choice([*natural]) for _ in range(n % 4)] for n in range(300)]
    found = [([natural[at] for at in row], order_as_bytes([VALUES[at] for at in row])) for row in rows]
    for (one_row, left), (other_row, right) in product(found[:100], found[100:]):
        assert (one_row < other_row) == (left < right), (one_row, other_row)


def test_bytes_have_the_order_of_texts() -> None:
    texts = [value for value in VALUES if isinstance(value, str)]
    for first, second in product(texts, texts):
        left, right = text_as_bytes(first), text_as_bytes(second)
        assert (left < right, left == right) == (first < second, first == second)


@pytest.mark.parametrize("answers", [False, True])
def test_places_are_those_of_a_sort_of_values(answers: bool, tmp_path: Path) -> None:
    rng = random.Random(5)
    entries: list[dict[str, Any]] = []
    for number in range(400):
        key = [rng.choice(["book 2", "book 10", "book １０", "第三卷"]), rng.choice(["a", "b"])]
        place: dict[str, Any] = {"key": key, "order": [rng.choice([1, 2, 2.0, "第二章", "第10章"])]}
        if number % 3:
            place["header"] = f"{number % 5}\n"
        if answers:
            place["answers"] = rng.choice([None, "elsewhere", *(f"r{rng.randrange(400)}" for _ in range(8))])
        entries.append({"id": f"r{rng.randrange(500) if number % 9 == 0 else number}", PART: place})
    lines = [json.dumps(entry) for entry in entries]
    lines.insert(7, json.dumps({"id": "x", "dropped": "too short"}))
    (tmp_path / "documents.jsonl").write_text("\n".join(lines) + "\n")
    digests = np.array([rng.randrange(1 << 64) for _ in entries], dtype=np.uint64)
    found = read_places(tmp_path, digests)

    keys = sorted({tuple(entry[PART]["key"]) for entry in entries}, key=lambda k: ([*map(order_naturally, k)], k))
    expected: list[int] = []
    for number, key_of in enumerate(keys):
        own = [at for at, entry in enumerate(entries) if tuple(entry[PART]["key"]) == key_of]
        own.sort(key=lambda at: (*map(order_naturally, [*entries[at][PART]["order"], entries[at]["id"]]), digests[at]))
        assert (found.group[own] == number).all()
        expected += read_depth_first(own, entries) if answers else own
    assert found.order.tolist() == expected and len(keys) == 8
    assert found.headers == [entry[PART].get("header", "") for entry in entries]
    assert bool(found.in_circle) is answers


def read_depth_first(own: list[int], entries: list[dict[str, Any]]) -> list[int]:
    """Each record before what answers it; trees whose root is not there, then circles from their first record."""
    ids = {entries[at]["id"] for at in own}
    done: list[int] = []

    def walk(at: int) -> None:
        if at not in done:
            done.append(at)
            for other in own:
                if entries[other][PART]["answers"] == entries[at]["id"]:
                    walk(other)

    for at in own:
        if entries[at][PART]["answers"] not in ids:
            walk(at)
    for at in own:
        walk(at)
    return done
