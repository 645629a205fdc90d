"""Shingles against plain Python, signatures against exact similarity, groups against all pairs."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_texts import WORDS, han
from ropewalk.corpus.dedup.minhash import group_similar, sign
from ropewalk.corpus.text.shingle import character_runs, shingles, word_hashes

ALPHABET = "aB cé1 ,.\n天地は"


def plain_words(text: str) -> list[str]:
    return re.findall(r"[天地は]|[a-z0-9é]+", text.lower())


def similarity(first: str, second: str) -> float:
    a, b = ({tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (plain_words(first), plain_words(second)))
    return len(a & b) / len(a | b)


def words(seed: int, count: int) -> list[str]:
    return np.random.default_rng(seed).choice(WORDS, count).tolist()


@given(text=st.text(alphabet=ALPHABET, max_size=60), width=st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_runs_of_words_are_those_of_plain_python(text: str, width: int) -> None:
    expected = plain_words(text)
    hashes = word_hashes(text)
    assert len(hashes) == len(expected)
    assert len(np.unique(hashes)) == len(set(expected))
    runs = [tuple(expected[i : i + width]) for i in range(len(expected) - width + 1)] or [tuple(expected)] * bool(
        expected
    )
    found = shingles(hashes, width)
    assert len(found) == len(runs) and len(np.unique(found)) == len(set(runs))
    characters = [text[i : i + width] for i in range(len(text) - width + 1)]
    assert len(np.unique(character_runs(text, width))) == len(set(characters))


def test_the_same_words_give_the_same_run_wherever_they_stand() -> None:
    long, short = words(0, 500), words(1, 20)
    assert np.isin(
        shingles(word_hashes(" ".join(short)), 13), shingles(word_hashes(" ".join(long + short + long)), 13)
    ).all()


@pytest.mark.parametrize("edits", [0, 2, 10, 40, 120])
def test_signatures_estimate_similarity(edits: int) -> None:
    errors = []
    for seed in range(40):
        original = words(seed, 600)
        edited = list(original)
        for at in np.random.default_rng(seed + 1000).choice(600, edits, replace=False):
            edited[at] = f"new{at}"
        texts = " ".join(original), " ".join(edited)
        errors.append(np.mean(sign(texts[0]) == sign(texts[1])) - similarity(*texts))
    assert abs(np.mean(errors)) < 0.02 and np.sqrt(np.mean(np.square(errors))) < 0.06


def test_groups_are_those_of_all_pairs() -> None:
    texts = []
    for family in range(30):
        original = words(family, 400)
        texts.append(" ".join(original))
        for copy in range(family % 4):
            edited = list(original)
            for at in range(copy, 400, 200):
                edited[at] = f"edit{copy}"
            texts.append(" ".join(edited))
    parent = list(range(len(texts)))
    for second in range(len(texts)):
        for first in range(second):
            if similarity(texts[first], texts[second]) >= 0.8:
                parent[second] = min(parent[second], parent[first])
    groups = group_similar(np.array([sign(text) for text in texts]), threshold=0.8)
    assert groups.tolist() == parent


def test_han_is_compared_by_character() -> None:
    text = han(1, 2000)
    edited = text[:500] + "改" + text[501:]
    groups = group_similar(np.array([sign(text), sign(edited), sign(han(2, 2000))]), threshold=0.8)
    assert groups.tolist() == [0, 0, 2]


def test_nothing_to_compare() -> None:
    assert len(group_similar(np.empty((0, 128), dtype=np.uint32), threshold=0.8)) == 0
    assert sign("").shape == (128,)
