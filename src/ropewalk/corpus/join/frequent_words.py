"""Finds the frequent words of a document with all their positions, by hashes of whole arrays.

An English word or identifier stands between other characters than letters, digits and underscores. A Chinese word is a
run of two to four characters that stands beside at least three others on either side and is no part of a longer one.
Words that occur as a part of another word, or in another case, are left out: their count would depend on the reading.
English text is divided into runs of the characters of words, which are counted; questions ask for few of the places.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32, UInt64

from ropewalk.corpus.text.language import code_points

FEWEST, MOST = 3, 200
"""Occurrences of a word that is counted."""
TERMS = 60
_SHORTEST_WORD = 5
_QUOTE, _LETTER = "\0", "\1"
"""Among runs, which are of ASCII, the signs for a curved apostrophe and for a letter or digit of no ASCII."""
_LONG_RUNS = re.compile(f"[^ ]{{{_SHORTEST_WORD},}}")
"""Runs that may be words or hold them; a list of all runs would be twice as long."""
_IN_RUN = re.compile("[A-Za-z0-9_'-]")
_WORDS = re.compile(r"(?<![\w\1])[A-Za-z_][A-Za-z0-9_'\0-]*(?![\w\1])".replace(r"\1", _LETTER))
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

    def of(self, group: int) -> Int64[np.ndarray, "_"]:
        return self.places[self.first[group] : self.first[group + 1]]


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


class Terms(Mapping[str, Sequence[int]]):
    """The frequent words of a text, the most frequent first, with the places where each begins.

    Places are found when they are first asked for: questions need those of few words. ``runs``: each different run of
    the text in lower case, which hold every word of ASCII that it has; None where they were not listed.
    """

    def __init__(self, counts: Mapping[str, int], find: Callable[[str], list[int]], runs: str | None = None) -> None:
        self._counts, self._find, self.runs = counts, find, runs
        self._places = dict[str, list[int]]()

    def __getitem__(self, word: str) -> list[int]:
        if word not in self._places:
            count, found = self._counts[word], self._find(word)
            assert len(found) == count, f"{word!r}: {count} counted, {len(found)} found"
            self._places[word] = found
        return self._places[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, word: str) -> int:
        """How often a word occurs."""
        return self._counts[word]


def find_frequent_words(text: str) -> Terms:
    """The most frequent words and identifiers of ASCII, and where each begins."""
    # most programs are ASCII, whose bytes are looked up several times as fast
    signs = text.encode().translate(_signs()[:256].tobytes()) if text.isascii() else _signs().take(code_points(text))
    runs = Counter(_LONG_RUNS.findall(bytes(signs).decode("latin-1")))
    words = _count_words(runs).items()
    order = sorted([(-count, word.replace(_QUOTE, "’")) for word, count in words if FEWEST <= count <= MOST])
    if any(sign in text for sign in _BECOME_ASCII):
        folded = text.lower()
        alone = ((word, -count) for count, word in order if folded.count(word.lower()) == -count)
        return Terms(dict(islice(alone, TERMS)), lambda word: _find_all(text, word))
    counts, folded_runs = _find_alone(order, runs)
    return Terms(counts, lambda word: _find_all(text, word), folded_runs.replace(_QUOTE, "’"))


def _count_words(runs: Mapping[str, int]) -> dict[str, int]:
    """How often each word of the runs occurs. Most runs are words; marks and letters other than ASCII part them."""
    counts = dict(runs)
    odd = [run for run in runs if not run.isidentifier()]
    for run in odd:
        del counts[run]
    for run in odd:
        for match in _WORDS.finditer(run):
            if match.end() - match.start() >= _SHORTEST_WORD:
                counts[match[0]] = counts.get(match[0], 0) + runs[run]
    return counts


def _find_alone(order: Iterable[tuple[int, str]], runs: Mapping[str, int]) -> tuple[dict[str, int], str]:
    """The first words, with their counts, that occur in no case and within no longer run more often than was counted;
    and each different run in lower case, which is searched once.

    ``order``: minus the count of each word, and the word.
    """
    exact = dict[str, int]()
    for folded, count in zip("\n".join(runs).lower().split("\n"), runs.values(), strict=True) if runs else ():
        exact[folded] = exact.get(folded, 0) + count
    longest_last, found = sorted(exact, key=len), dict[str, int]()
    text = "\n".join(longest_last)
    longer = _find_longer(longest_last, len(text))
    for negative, word in order:
        folded, left = word.lower().replace("’", _QUOTE), -negative
        left -= exact.get(folded, 0)
        at = text.find(folded, longer[len(folded)]) if left >= 0 and len(folded) < len(longer) else -1
        while at >= 0 and left >= 0:
            end = text.find("\n", at)
            left -= exact[text[text.rfind("\n", 0, at) + 1 : end if end >= 0 else None]]
            at = text.find(folded, at + len(folded))
        if not left:
            found[word] = -negative
            if len(found) == TERMS:
                break
    return found, text


def _find_longer(runs: Sequence[str], characters: int) -> list[int]:
    """For each length up to that of the last of ``runs``, which are in order of length, where the first longer one
    begins in their text of ``characters``."""
    sizes = np.array([len(run) for run in runs], dtype=np.int64)
    begins = np.append(np.cumsum(sizes + 1) - sizes - 1, characters)
    return list(begins[np.searchsorted(sizes, np.arange(sizes[-1] + 1 if len(sizes) else 0), side="right")].tolist())


def _find_all(text: str, word: str) -> list[int]:
    """Where a word begins that stands in no longer one."""
    found, at = [], text.find(word)
    while at >= 0:
        found.append(at)
        at = text.find(word, at + len(word))
    return found


@cache
def _signs() -> UInt8[np.ndarray, "code_points"]:
    """For every code point what stands for it among the runs: itself, if it belongs to one; for other letters and
    digits a sign that parts words; else a space."""
    signs = np.full(0x110000, ord(" "), dtype=np.uint8)
    signs[np.flatnonzero([*map(str.isalnum, map(chr, range(_ASSIGNED)))])] = ord(_LETTER)
    for sign in filter(_IN_RUN.match, map(chr, range(128))):
        signs[ord(sign)] = ord(sign)
    signs[ord("’")] = ord(_QUOTE)
    return signs


def find_han_words(text: str) -> Terms:
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
    words = _by_frequency(
        text, [(groups, free & ~_overlaps(groups, at + 2)) for at, (groups, free) in enumerate(found)]
    )
    counts = {word: len(groups.of(own)) for word, (groups, own) in words.items()}
    return Terms(counts, lambda word: list(words[word][0].of(words[word][1]).tolist()))


def _by_frequency(text: str, found: Sequence[tuple[Groups, Bool[np.ndarray, "_"]]]) -> dict[str, tuple[Groups, int]]:
    """The chosen groups that are most frequent, by their words. Words of equal frequency are in their own order."""
    chosen = [np.flatnonzero(free) for _, free in found]
    sizes = np.repeat(np.arange(len(found)), [len(own) for own in chosen])
    group = np.concatenate(chosen)
    tables = [(groups.first, own) for (groups, _), own in zip(found, chosen, strict=True)]
    counts = np.concatenate([first[own + 1] - first[own] for first, own in tables])
    begins = np.concatenate([groups.places[groups.first[own]] for (groups, _), own in zip(found, chosen, strict=True)])
    if len(counts) > TERMS:
        kept = np.flatnonzero(counts >= np.partition(counts, -TERMS)[-TERMS])
        sizes, group, counts, begins = sizes[kept], group[kept], counts[kept], begins[kept]
    table = zip((-counts).tolist(), begins.tolist(), sizes.tolist(), group.tolist(), strict=True)
    words = sorted((count, text[begin : begin + size + 2], size, own) for count, begin, size, own in table)
    return {word: (found[size][0], own) for _, word, size, own in words[:TERMS]}


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
    count, first = np.diff(groups.first), groups.first[:-1]
    if not len(count):
        return np.empty(0, dtype=bool)
    padded = np.concatenate([[0], np.where(is_han, points, 0), [0]]).astype(np.uint32)
    free = count <= MOST
    for beside in (padded[groups.places], padded[groups.places + size + 1]):
        least, most = (np.repeat(end.reduceat(beside, first), count) for end in (np.minimum, np.maximum))
        free &= np.logical_or.reduceat((beside != least) & (beside != most), first)  # a third kind
    return free


def _overlaps(groups: Groups, size: int) -> Bool[np.ndarray, "groups"]:
    """Whether a run overlaps itself, so that it occurs more often than it can be counted."""
    if len(groups.first) == 1:
        return np.empty(0, dtype=bool)
    close = np.diff(groups.places, append=0) < size
    close[groups.first[1:] - 1] = False  # the next place is of another group
    return np.logical_or.reduceat(close, groups.first[:-1])
