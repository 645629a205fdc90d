"""Finds the frequent words of a document with all their positions, by hashes of whole arrays.

An English word or identifier stands between other characters than letters, digits and underscores. A Chinese word is a
run of two to four characters that stands beside at least three others on either side and is no part of a longer one.
Words that occur as a part of another word, or in another case, are left out: their count would depend on the reading.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32, UInt64

from ropewalk.corpus.text.language import code_points
from ropewalk.corpus.text.shingle import window_hashes

FEWEST, MOST = 3, 200
"""Occurrences of a word that is counted."""
TERMS = 60
_SHORTEST_WORD = 5
_WORDS = re.compile(r"(?<!\w)[A-Za-z_][A-Za-z0-9_'’-]*(?!\w)")
_IN_RUN, _BEGINS, _IN_WORD = 1, 2, 4
_BECOME_ASCII = ("\u0130", "\u212a")
"""Dotted capital I and the Kelvin sign: their lower case has a letter of ASCII."""
_FIRST, _LAST = 0x4E00, 0x9FFF
_ASSIGNED = 0x40000
"""Unicode has no letter from here on."""
_LONGEST_HAN = 4


class Groups(NamedTuple):
    """Places with equal keys, ascending in each group; group ``g`` is ``places[first[g] : first[g + 1]]``."""

    places: Int64[np.ndarray, "places"]
    first: Int64[np.ndarray, "groups+1"]

    def of(self, group: int) -> list[int]:
        found: list[int] = self.places[self.first[group] : self.first[group + 1]].tolist()
        return found


def _group(keys: UInt64[np.ndarray, "keys"], places: Int64[np.ndarray, "keys"], *, key_bits: int = 64) -> Groups:
    """The groups of equal keys with ``FEWEST`` places or more. ``places`` are ascending. Where key and place fit into
    one number, it is sorted, which is several times as fast as a search for the order."""
    place_bits = int(places[-1]).bit_length() if len(places) else 0
    if key_bits + place_bits <= 64:
        packed = np.sort(keys << np.uint64(place_bits) | places.astype(np.uint64))
        keys = packed >> np.uint64(place_bits)
        places = (packed & np.uint64((1 << place_bits) - 1)).astype(np.int64)
    else:
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
    starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    borders = np.concatenate([[0], starts, [len(keys)]])
    counts = np.diff(borders)
    fits = counts >= FEWEST
    return Groups(places[np.repeat(fits, counts)], np.concatenate([[0], np.cumsum(counts[fits])]))


def find_frequent_words(text: str) -> dict[str, list[int]]:
    """The most frequent words and identifiers of ASCII, and where each begins."""
    found, runs = _find_words(text)
    order = sorted(found, key=lambda word: (-len(found[word]), word))
    alone = _find_alone(order, found, runs) if runs else _count_alone(order, found, text.lower())
    return {word: found[word] for word in islice(alone, TERMS)}


def _find_words(text: str) -> tuple[dict[str, list[int]], Callable[[], tuple[str, list[int]]] | None]:
    """The words that occur often enough, and a function for the different runs of the characters of words: a text of
    them, lower case, line by line, and how often each occurs. None where runs of the text are not those of its lower
    case."""
    points = code_points(text)
    kinds = _kinds().take(points)
    in_run = kinds & _IN_RUN > 0
    edges = np.flatnonzero(np.diff(in_run, prepend=False, append=False))
    run_start, run_end = edges[::2], edges[1::2]
    before = np.concatenate([np.zeros(1, dtype=np.uint8), kinds[:-1]])
    begins = np.flatnonzero((kinds & _BEGINS > 0) & (before & _IN_WORD == 0))
    at = np.searchsorted(begins, run_start)
    start = np.append(begins, len(points))[at]
    cut_short = (np.append(kinds, np.uint8(0))[run_end] & _IN_WORD > 0) & (start < run_end)
    whole = (run_end - start >= _SHORTEST_WORD) & ~cut_short
    shorter = [
        each for run in np.flatnonzero(cut_short).tolist() for each in _in_run(text, int(start[run]), int(run_end[run]))
    ]
    start, end = start[whole], run_end[whole]
    if shorter:
        start, end = (np.concatenate([own, more]) for own, more in zip((start, end), np.array(shorter).T, strict=True))
        order = np.argsort(start)
        start, end = start[order], end[order]
    hashes = window_hashes(points, np.concatenate([start, run_start]), np.concatenate([end, run_end]))
    groups = _group(hashes[: len(start)], np.arange(len(start)))
    found = {}
    for group in np.flatnonzero(np.diff(groups.first) <= MOST).tolist():
        own = groups.places[groups.first[group] : groups.first[group + 1]]
        found[text[start[own[0]] : end[own[0]]]] = start[own].tolist()

    def unlike_runs() -> tuple[str, list[int]]:
        _, first, counts = np.unique(hashes[len(start) :], return_index=True, return_counts=True)
        pieces = zip(run_start[first].tolist(), run_end[first].tolist(), strict=True)
        return _ascii("\n".join([text[a:b] for a, b in pieces])), counts.tolist()

    return found, None if any(sign in text for sign in _BECOME_ASCII) else unlike_runs


def _in_run(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The words of a run that goes on in letters other than ASCII: a part of it before a mark may be one."""
    for match in _WORDS.finditer(text, start):
        if match.start() >= end:
            break
        if match.end() - match.start() >= _SHORTEST_WORD:
            yield match.span()


def _find_alone(
    order: Iterable[str], found: dict[str, list[int]], runs: Callable[[], tuple[str, list[int]]]
) -> Iterator[str]:
    """The words that occur in no case and within no longer run more often than they were found."""
    text, counts = runs()
    starts = np.flatnonzero(np.frombuffer(text.encode("utf-32-le"), dtype="<u4") == ord("\n")).tolist()
    exact = Counter[str]()
    for run, count in zip(text.split("\n"), counts, strict=True) if counts else ():
        exact[run] += count
    for word in order:
        folded, left = _ascii(word), len(found[word])
        if exact[folded] > left:
            continue
        if exact[folded] == left and text.count(folded) == 1:  # it is within no other run
            yield word
            continue
        at = text.find(folded)
        while at >= 0 and left >= 0:
            left -= counts[bisect_right(starts, at)]
            at = text.find(folded, at + len(folded))
        if left == 0:
            yield word


def _count_alone(order: Iterable[str], found: dict[str, list[int]], folded: str) -> Iterator[str]:
    """The same words, by a search of the whole text in lower case."""
    return (word for word in order if folded.count(word.lower()) == len(found[word]))


def _ascii(runs: str) -> str:
    """Runs in lower case, in ASCII alone, in which Python searches several times as fast."""
    return runs.lower().replace("’", "\0")


@cache
def _kinds() -> UInt8[np.ndarray, "code_points"]:
    """For every code point whether it belongs to a run, begins a word, and is a letter, digit or underscore."""
    is_word = np.zeros(0x110000, dtype=bool)
    is_word[:_ASSIGNED] = [*map(str.isalnum, map(chr, range(_ASSIGNED)))]
    kinds = np.where(is_word, np.uint8(_IN_WORD), np.uint8(0))
    kinds[ord("_")] = _IN_WORD
    ascii_words = np.flatnonzero(kinds[:128])
    kinds[ascii_words] |= _IN_RUN
    kinds[[ord(sign) for sign in "'’-"]] |= _IN_RUN
    kinds[[at for at in ascii_words.tolist() if not chr(at).isdigit()]] |= _BEGINS
    return kinds


def find_han_words(text: str) -> dict[str, list[int]]:
    """The most frequent Chinese words of two to four characters, and where each begins."""
    points = code_points(text)
    is_han = (points >= _FIRST) & (points <= _LAST)
    found: list[tuple[Groups, Bool[np.ndarray, _]]] = []
    numbers: list[Numbers] = []
    for size in range(2, _LONGEST_HAN + 1):
        # a longer run is as frequent only where both shorter ones in it are
        groups, number = _longer_runs(*found[-1][:1], numbers[-1]) if found else _pairs_of_han(points, is_han)
        free = _is_free(groups, points, is_han, size)
        begin = groups.places[groups.first[:-1][free]]
        for shorter in range(2, size):  # what is a part of this word is no word
            for at in range(size - shorter + 1):
                found[shorter - 2][1][numbers[shorter - 2][begin + at]] = False
        found.append((groups, free))
        numbers.append(number)
    words = _by_frequency(text, found)
    alone = ((word, places) for word, places in words if not _overlaps(places, len(word)))
    return dict(islice(alone, TERMS))


def _by_frequency(text: str, found: Sequence[tuple[Groups, Bool[np.ndarray, "_"]]]) -> Iterator[tuple[str, list[int]]]:
    """The chosen groups of each size of run as words with their places, the most frequent first."""
    chosen = [np.flatnonzero(free) for _, free in found]
    counts = np.concatenate([np.diff(groups.first)[own] for (groups, _), own in zip(found, chosen, strict=True)])
    size = np.repeat(np.arange(len(found)), [len(own) for own in chosen])
    group = np.concatenate(chosen)
    order = np.argsort(-counts, kind="stable")
    borders = np.flatnonzero(np.diff(counts[order], prepend=-1, append=-1))
    for first, last in pairwise(borders.tolist()):
        equal: list[tuple[str, Groups, int]] = []
        for at in order[first:last].tolist():
            groups, own = found[size[at]][0], int(group[at])
            begin = int(groups.places[groups.first[own]])
            equal.append((text[begin : begin + int(size[at]) + 2], groups, own))
        yield from ((word, groups.of(own)) for word, groups, own in sorted(equal, key=lambda each: each[0]))


Numbers = Int64[np.ndarray, "characters"]
"""For each character the group of the run that begins with it, or -1."""


def _pairs_of_han(
    points: UInt32[np.ndarray, "characters"], is_han: Bool[np.ndarray, "characters"]
) -> tuple[Groups, Numbers]:
    """The pairs of neighbouring characters of Han that occur often enough."""
    places = np.flatnonzero(is_han[1:] & is_han[:-1])
    keys = points[places].astype(np.uint64) << np.uint64(16) | points[places + 1]
    return _numbered(_group(keys, places, key_bits=32), len(points))


def _longer_runs(groups: Groups, number: Numbers) -> tuple[Groups, Numbers]:
    """The runs with one more character. Each consists of two overlapping runs of ``groups``."""
    places = np.flatnonzero((number[1:] >= 0) & (number[:-1] >= 0))
    bits = len(groups.first).bit_length()
    keys = number[places].astype(np.uint64) << np.uint64(bits) | number[places + 1].astype(np.uint64)
    return _numbered(_group(keys, places, key_bits=2 * bits), len(number))


def _numbered(groups: Groups, characters: int) -> tuple[Groups, Numbers]:
    number = np.full(characters, -1, dtype=np.int64)
    number[groups.places] = np.repeat(np.arange(len(groups.first) - 1), np.diff(groups.first))
    return groups, number


def _is_free(
    groups: Groups, points: UInt32[np.ndarray, "characters"], is_han: Bool[np.ndarray, "characters"], size: int
) -> Bool[np.ndarray, "groups"]:
    """Whether a group is not too frequent, and the characters before and behind it are of three kinds or more; the end
    of a run is one."""
    padded = np.concatenate([[0], np.where(is_han, points, 0), [0]]).astype(np.int64)
    number = np.repeat(np.arange(len(groups.first) - 1), np.diff(groups.first))
    free = np.diff(groups.first) <= MOST
    for beside in (padded[groups.places], padded[groups.places + size + 1]):
        pairs = np.sort(number << 16 | beside)
        new = np.concatenate([[True], pairs[1:] != pairs[:-1]]) if len(pairs) else np.empty(0, dtype=bool)
        free &= np.bincount(pairs[new] >> 16, minlength=len(free)) >= FEWEST
    return free


def _overlaps(places: Sequence[int], size: int) -> bool:
    """Whether a word overlaps itself, so that it occurs more often than it can be counted."""
    return any(second - first < size for first, second in pairwise(places))
