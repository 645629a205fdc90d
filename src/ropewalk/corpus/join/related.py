"""Chains of related texts: each is followed by the text that shares most rare words with it (in-context pretraining).

Words are compared as token ids and pairs of them, so no text is read and no language is special. Of each document the
terms with the largest TF-IDF are kept; two documents are related by the sum of the weights of two or more shared terms.
A chain begins at the text with the fewest relations and goes to the nearest one that is not used (2310.10638), each
text once. With ``arrange: negatives`` it goes to the one that is nearest to its first text. Near copies of any text of
a chain stay out of it.

All numbers are whole and ties go by the order of ``documents``, so the order of reading has no influence.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, Integer, UInt32

from ropewalk.core.seed import stream
from ropewalk.corpus.join.write_pieces import PartOrder
from ropewalk.corpus.join_rules import RelatedRules
from ropewalk.corpus.tokens.store import StoredDocuments

_LEAST_BITS, _MOST_BITS = 16, 26
"""Of a term's number: 2**26 counts take 512 MiB."""
_MOST_DOCUMENTS, _LARGEST_SHARE = 1000, 4
"""A term that more documents have, or every fourth, tells nothing."""
_FEWEST_DOCUMENTS = 8
_UNIT = 1024
_OF_ONE_LENGTH = 32
"""Texts of neighbouring lengths among which the control draws."""


def chain_related(
    documents: StoredDocuments,
    tokens: Int64[np.ndarray, "documents"],
    signatures: UInt32[np.ndarray, "documents 128"],
    rules: RelatedRules,
) -> PartOrder:
    """Put all ``documents`` into chains of at most ``target_tokens``. A text that is related to none is alone."""
    nearest = list(list_related(documents, rules))
    starts = sorted(range(len(nearest)), key=lambda number: len(nearest[number]))
    chains = _walk(nearest, starts, tokens, signatures, rules)
    if rules.control:
        chains = _draw_texts(chains, tokens, signatures, rules)
    numbers = np.array([number for chain in chains for number in chain], dtype=np.int64)
    opens = np.array([at == 0 for chain in chains for at in range(len(chain))], dtype=bool)
    return PartOrder(documents.chosen[numbers], opens, continued=0)


def _walk(
    nearest: list[list[int]],
    starts: list[int],
    tokens: Int64[np.ndarray, "documents"],
    signatures: UInt32[np.ndarray, "documents 128"],
    rules: RelatedRules,
) -> list[list[int]]:
    end = 0 if rules.arrange == "negatives" else -1
    used = [False] * len(starts)
    chains: list[list[int]] = []
    for start in starts:
        if used[start]:
            continue
        used[start] = True
        chain, size = [start], int(tokens[start])
        chains.append(chain)
        while (following := _find_next(nearest[chain[end]], used, chain, signatures, rules.at_most)) is not None:
            used[following] = True
            if size + int(tokens[following]) > rules.target_tokens:
                chain, size = [], 0
                chains.append(chain)
            chain.append(following)
            size += int(tokens[following])
    return chains


def _draw_texts(
    chains: list[list[int]],
    tokens: Int64[np.ndarray, "documents"],
    signatures: UInt32[np.ndarray, "documents 128"],
    rules: RelatedRules,
) -> list[list[int]]:
    """Chains like ``chains``, with a random text of about the same length in each place: random chains without this
    are longer, because a random text has always a next one. A text that fits nowhere is alone."""
    random = stream("related", "control")
    by_length = np.lexsort((random.permutation(len(tokens)), tokens))
    rank = np.argsort(by_length)
    used = [False] * len(tokens)
    drawn: list[list[int]] = []
    for places in chains:
        chain, size = list[int](), 0
        for place in places:
            first = int(rank[place]) // _OF_ONE_LENGTH * _OF_ONE_LENGTH
            alike = random.permutation(by_length[first : first + _OF_ONE_LENGTH]).tolist()
            fit = [number for number in alike if not chain or size + int(tokens[number]) <= rules.target_tokens]
            if (number := _find_next(fit, used, chain, signatures, rules.at_most)) is not None:
                used[number] = True
                chain.append(number)
                size += int(tokens[number])
        drawn += [chain] if chain else []
    return [*drawn, *([number] for number in range(len(tokens)) if not used[number])]


def _find_next(
    nearest: list[int],
    used: list[bool],
    chain: list[int],
    signatures: UInt32[np.ndarray, "documents 128"],
    at_most: float,
) -> int | None:
    for number in nearest:
        if not used[number]:
            alike = (signatures[chain] == signatures[number]).mean(axis=1).max(initial=0)
            if alike < at_most:
                return number
    return None


def list_related(documents: StoredDocuments, rules: RelatedRules) -> Iterator[list[int]]:
    """For each document the documents that share two or more terms with it, the nearest first."""
    found = _Terms.count(documents)
    terms = [found.choose(ids, rules.terms) for ids in documents]
    owner = np.repeat(np.arange(len(terms)), [len(own) for own in terms])
    flat = np.concatenate([np.empty(0, dtype=np.int64), *terms])
    order = np.argsort(flat, kind="stable")
    flat, owner = flat[order], owner[order]
    for number, own in enumerate(terms):
        first, last = np.searchsorted(flat, own, side="left"), np.searchsorted(flat, own, side="right")
        spans = [owner[begin:end] for begin, end in zip(first.tolist(), last.tolist(), strict=True)]
        others = np.concatenate([np.empty(0, dtype=np.int64), *spans])
        weights = np.repeat(found.weigh(own), last - first)
        related, index, counts = np.unique(others, return_inverse=True, return_counts=True)
        sums = np.bincount(index, weights, minlength=len(related)).astype(np.int64)  # exact: below 2**53
        fit = (counts >= 2) & (related != number)
        related, sums = related[fit], sums[fit]
        yield related[np.lexsort((related, -sums))][: rules.neighbours].tolist()


class _Terms:
    """Counts in how many documents each term is. Terms are hashed to a table, which is large enough for the corpus."""

    def __init__(self, counts: Int64[np.ndarray, "terms"], documents: int) -> None:
        self._counts = counts
        self._documents = documents
        self._most = min(_MOST_DOCUMENTS, max(_FEWEST_DOCUMENTS, documents // _LARGEST_SHARE))

    @classmethod
    def count(cls, documents: StoredDocuments) -> "_Terms":
        """Count the terms of all documents."""
        bits = min(_MOST_BITS, max(_LEAST_BITS, 2 + int(documents.tokens).bit_length()))
        counts = np.zeros(1 << bits, dtype=np.int64)
        for ids in documents:
            counts[np.unique(_name_terms(ids, bits))] += 1
        return cls(counts, len(documents))

    def choose(self, ids: Integer[np.ndarray, "tokens"], most: int) -> Int64[np.ndarray, "terms"]:
        """The ``most`` terms of a document with the largest TF-IDF, of those that another document has too."""
        bits = len(self._counts).bit_length() - 1
        terms, times = np.unique(_name_terms(ids, bits), return_counts=True)
        count = self._counts[terms]
        fit = (count >= 2) & (count <= self._most)
        terms, times = terms[fit], times[fit]
        score = np.rint((1 + np.log(times)) * self.weigh(terms)).astype(np.int64)
        return np.sort(terms[np.lexsort((terms, -score))][:most])

    def weigh(self, terms: Int64[np.ndarray, "terms"]) -> Int64[np.ndarray, "terms"]:
        """The inverse document frequency of terms, as whole numbers."""
        return np.asarray(np.rint(_UNIT * np.log(self._documents / self._counts[terms])), dtype=np.int64)


def _name_terms(ids: Integer[np.ndarray, "tokens"], bits: int) -> Int64[np.ndarray, "terms"]:
    """A number below 2**bits for each token and each pair of neighbours (Fibonacci hashing)."""
    one = ids.astype(np.uint64) + np.uint64(1)
    pairs = (one[:-1] << np.uint64(32)) | one[1:]
    mixed = np.concatenate([one, pairs]) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return ((mixed * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(64 - bits)).astype(np.int64)
