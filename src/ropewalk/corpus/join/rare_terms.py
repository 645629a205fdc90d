"""For each text the texts that share rare words with it, nearest first.

Words are compared as token ids and pairs of them, so no text is read and no language is special. Of each document the
terms with the largest TF-IDF are kept. Two documents are related by the terms that both keep, two or more. A shared
term counts by its rarity and by how often each of the two has it: a name that both texts speak of counts more than a
rare word that stands once in each by chance.

All numbers are whole and ties go by the order of ``documents``, so the order of reading has no influence. Many
documents are compared in one step of numpy.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int16, Int32, Int64, Integer

from ropewalk.corpus.join_rules import RelatedRules
from ropewalk.corpus.text.short_texts import count_up
from ropewalk.corpus.tokens.store import StoredDocuments

_LEAST_BITS, _MOST_BITS = 16, 26
"""Of a term's number: 2**26 counts take 256 MiB."""
_MOST_DOCUMENTS, _LARGEST_SHARE = 1000, 4
"""A term that more documents have, or every fourth, tells nothing."""
_FEWEST_DOCUMENTS = 8
_UNIT, _TIMES_UNIT = 1024, 16
_STEP_TOKENS, _STEP_SHARED = 1 << 16, 1 << 18
"""Tokens whose terms are named in one step, and shared terms that are compared in one step."""


class _Terms(NamedTuple):
    """The terms that some documents keep, in the order of the documents and then of the terms: the number of the
    document, the term, a weight for how often it occurs there, and its rarity."""

    home: Int32[np.ndarray, "terms"]
    name: Int32[np.ndarray, "terms"]
    times: Int16[np.ndarray, "terms"]
    rarity: Int32[np.ndarray, "terms"]


def list_related(documents: StoredDocuments, rules: RelatedRules) -> Iterator[list[int]]:
    """For each document the documents that share two or more terms with it, the nearest first."""
    kept = _keep_terms(documents, rules.terms)
    order = np.argsort(kept.name, kind="stable")
    holders, times = kept.home[order], kept.times[order]
    first, shared = _find_runs(kept.name, order)
    del order
    ends = np.searchsorted(kept.home, np.arange(len(documents)), side="right")
    borders = np.concatenate([[0], ends])
    compared = count_up(shared)[borders]
    begin = 0
    while begin < len(documents):
        end = int(np.searchsorted(compared, compared[begin] + _STEP_SHARED, side="right")) - 1
        end = max(end, begin + 1)
        own = slice(int(borders[begin]), int(borders[end]))
        places = _spread(first[own], shared[own])
        asking = np.repeat(kept.home[own].astype(np.int64), shared[own])
        weights = np.repeat(kept.rarity[own].astype(np.int64) * kept.times[own], shared[own]) * times[places]
        found = _rank(asking - begin, holders[places], weights, begin, rules.neighbours)
        asked = np.searchsorted(found[0], np.arange(end - begin + 1)).tolist()
        nearest = found[1].tolist()
        for number in range(end - begin):
            yield nearest[asked[number] : asked[number + 1]]
        begin = end


def _find_runs(
    names: Int32[np.ndarray, "terms"], order: Int64[np.ndarray, "terms"]
) -> tuple[Int64[np.ndarray, "terms"], Int64[np.ndarray, "terms"]]:
    """Where the run of equal names begins in their sorted ``order``, and how long it is, for each of ``names``."""
    in_order = names[order]
    first = np.searchsorted(in_order, names, side="left")
    return first, np.searchsorted(in_order, names, side="right") - first


def _spread(first: Int64[np.ndarray, "runs"], length: Int64[np.ndarray, "runs"]) -> Int64[np.ndarray, "places"]:
    """All places of runs, one after the other."""
    borders = count_up(length)
    places: Int64[np.ndarray, places] = np.arange(borders[-1]) + np.repeat(first - borders[:-1], length)
    return places


def _rank(
    asking: Int64[np.ndarray, "shared"],
    other: Int32[np.ndarray, "shared"],
    weights: Int64[np.ndarray, "shared"],
    begin: int,
    most: int,
) -> tuple[Int64[np.ndarray, "near"], Int64[np.ndarray, "near"]]:
    """For each asking document, counted from ``begin``, its ``most`` nearest others: both numbers of each pair."""
    bits = int(other.max(initial=0)).bit_length()
    pairs = asking << bits | other
    order = np.argsort(pairs, kind="stable")
    pairs = pairs[order]
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]])[: len(pairs)])
    if not len(starts):
        return asking, asking
    sums = np.add.reduceat(weights[order], starts)
    counts = np.diff(np.append(starts, len(pairs)))
    asking, other = pairs[starts] >> bits, pairs[starts] & ((1 << bits) - 1)
    fit = (counts >= 2) & (other != asking + begin)
    asking, other, sums = asking[fit], other[fit], sums[fit]
    order = np.lexsort((other, -sums, asking))
    asking, other = asking[order], other[order]
    near = np.arange(len(asking)) - np.searchsorted(asking, asking) < most
    return asking[near], other[near]


def _keep_terms(documents: StoredDocuments, most: int) -> _Terms:
    """Of each document the ``most`` terms with the largest TF-IDF, of those that another document has too."""
    bits = min(_MOST_BITS, max(_LEAST_BITS, 2 + int(documents.tokens).bit_length()))
    counts = np.zeros(1 << bits, dtype=np.int32)
    for _, names, _ in _read_terms(documents, bits):
        np.add.at(counts, names, np.int32(1))
    most_common = min(_MOST_DOCUMENTS, max(_FEWEST_DOCUMENTS, len(documents) // _LARGEST_SHARE))
    of_count = np.maximum(1, np.arange(most_common + 1))
    rarities = np.rint(_UNIT * np.log(max(1, len(documents)) / of_count)).astype(np.int64)
    none = np.empty(0, dtype=np.int64)
    kept = [_pack(none, none, none.astype(float), none)]
    for home, name, times in _read_terms(documents, bits):
        count = counts[name]
        fit = np.flatnonzero((count >= 2) & (count <= most_common))
        home, name, times, rarity = home[fit], name[fit], times[fit], rarities[count[fit]]
        score = np.rint((1 + np.log(times)) * rarity).astype(np.int64)
        chosen = _choose_best(home, score, most)
        weight = np.rint(_TIMES_UNIT * (1 + np.log(times[chosen])))
        kept.append(_pack(home[chosen], name[chosen], weight, rarity[chosen]))
    return _Terms(*map(np.concatenate, zip(*kept, strict=True)))


def _choose_best(
    home: Int64[np.ndarray, "terms"], score: Int64[np.ndarray, "terms"], most: int
) -> Int64[np.ndarray, "chosen"]:
    """The places of the ``most`` highest scores of each document, ascending; of equal scores the first ones. Document,
    score and place are sorted as one number."""
    if not len(home):
        return home
    place_bits, highest = len(home).bit_length(), int(score.max())
    bits = place_bits + highest.bit_length()
    keys = np.sort((home - home[0]) << bits | (highest - score) << place_bits | np.arange(len(home)))
    first = np.searchsorted(home, home, side="left")
    return np.sort((keys & ((1 << place_bits) - 1))[np.arange(len(home)) - first < most])


def _pack(
    home: Int64[np.ndarray, "terms"],
    name: Int64[np.ndarray, "terms"],
    times: Float[np.ndarray, "terms"],
    rarity: Int64[np.ndarray, "terms"],
) -> _Terms:
    """In small types: a corpus of a million documents keeps 32 million terms."""
    return _Terms(home.astype(np.int32), name.astype(np.int32), times.astype(np.int16), rarity.astype(np.int32))


def _read_terms(
    documents: StoredDocuments, bits: int
) -> Iterator[tuple[Int64[np.ndarray, "terms"], Int64[np.ndarray, "terms"], Int64[np.ndarray, "terms"]]]:
    """For some documents in turn: the number of a document, one of its different terms, and how often it occurs."""
    held: list[Integer[np.ndarray, tokens]] = []
    tokens, begin = 0, 0
    for number, ids in enumerate(documents, start=1):
        held.append(ids)
        tokens += len(ids)
        if tokens >= _STEP_TOKENS or number == len(documents):
            yield _count_terms(held, begin, bits)
            held, tokens, begin = [], 0, number


def _count_terms(
    held: list[Integer[np.ndarray, "tokens"]], begin: int, bits: int
) -> tuple[Int64[np.ndarray, "terms"], Int64[np.ndarray, "terms"], Int64[np.ndarray, "terms"]]:
    home = np.repeat(np.arange(len(held)), [len(ids) for ids in held])
    one = np.concatenate(held).astype(np.uint64) + np.uint64(1)
    inside = home[1:] == home[:-1]
    pairs = ((one[:-1] << np.uint64(32)) | one[1:])[inside]
    names = _name_terms(np.concatenate([one, pairs]), bits)
    keys = np.sort(np.concatenate([home, home[1:][inside]]) << bits | names)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    times = np.diff(np.append(starts, len(keys)))
    return begin + (keys[starts] >> bits), keys[starts] & ((1 << bits) - 1), times


def _name_terms(terms: Integer[np.ndarray, "terms"], bits: int) -> Int64[np.ndarray, "terms"]:
    """A number below 2**bits for each token and each pair of neighbours (Fibonacci hashing)."""
    mixed = terms * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return ((mixed * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(64 - bits)).astype(np.int64)
