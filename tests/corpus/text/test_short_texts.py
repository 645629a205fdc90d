"""Short texts in groups get what each of them gets alone: signatures, pairs of lines, ids."""

import random

import numpy as np
import pytest

from ropewalk.corpus.dedup.minhash import sign
from ropewalk.corpus.dedup.sign_short import sign_short
from ropewalk.corpus.prepare.repeated_sections import find_pairs
from ropewalk.corpus.prepare.short_pairs import find_short_pairs
from ropewalk.corpus.text.short_texts import SHORT_CHARACTERS, group_short

LETTERS = "ab Cd\n\n。.! ?中文字\u03a3\u01300９\u3000\t\r"
"""White space, ends of sentences, words of one character, and letters whose small form depends on their place."""


def draw_texts(number: int) -> list[str]:
    draw = random.Random(number)
    lengths = [1, 2, 3, 10, 100, 500]
    texts = ["".join(draw.choices(LETTERS, k=draw.choice(lengths))) for _ in range(1 + number)]
    return [*texts, "\n\n\n", "。", " a ", "A\u03a3", "one line\nanother line\n"]


@pytest.mark.parametrize("number", range(12))
def test_signatures_are_those_of_each_text(number: int) -> None:
    texts = [*draw_texts(number), "", "!?"]
    assert np.array_equal(sign_short(texts), [sign(text) for text in texts])


@pytest.mark.parametrize("number", range(12))
def test_pairs_and_ends_are_those_of_each_text(number: int) -> None:
    texts = draw_texts(number)
    pairs, ends, counts = find_short_pairs(texts)
    alone = [find_pairs(text) for text in texts]
    assert np.array_equal(pairs, np.concatenate([own for own, _ in alone]))
    assert np.array_equal(ends, np.concatenate([own for _, own in alone]))
    assert counts.tolist() == [[len(own), len(borders)] for own, borders in alone]


def test_groups_keep_the_order_and_a_long_text_is_alone() -> None:
    sizes = [1, SHORT_CHARACTERS, SHORT_CHARACTERS + 1, 0, 5, *[SHORT_CHARACTERS] * 40, *[0] * 2000, 1 << 20]
    groups = [list(group) for group in group_short(iter(sizes), int)]
    assert [size for group in groups for size in group] == sizes
    assert all(len(group) == 1 or sum(group) <= 1 << 16 for group in groups)
    assert all(max(group) <= SHORT_CHARACTERS for group in groups if len(group) > 1)
    assert [1, SHORT_CHARACTERS] in groups and [SHORT_CHARACTERS + 1] in groups and len(groups) < 10
    assert list(group_short([], len)) == []


def test_a_group_holds_nothing_once_it_is_emptied() -> None:
    """What a receiver took out is free before the next item is read."""
    alive: set[int] = set()

    class Item:
        def __init__(self, number: int) -> None:
            self.number = number
            alive.add(number)

        def __del__(self) -> None:
            alive.discard(self.number)

    def make() -> "list[int]":
        seen = []
        for group in group_short(map(Item, range(4)), lambda _: SHORT_CHARACTERS + 1):
            group.clear()
            seen.append(len(alive))
        return seen

    assert make() == [0, 0, 0, 0]
