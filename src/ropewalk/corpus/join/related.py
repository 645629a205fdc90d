"""Chains of related texts: each is followed by the text that shares most rare words with it (in-context pretraining).

Which texts share them is found by rare_terms.py. A chain begins at the text with the fewest relations and goes to the
nearest one that is not used (2310.10638), each text once. With ``arrange: negatives`` it goes to the one that is
nearest to its first text. Near copies of any text of a chain stay out of it.

All numbers are whole and ties go by the order of ``documents``, so the order of reading has no influence.
"""

import numpy as np
from jaxtyping import Int64, UInt32

from ropewalk.core.seed import stream
from ropewalk.corpus.join.rare_terms import list_related
from ropewalk.corpus.join.write_pieces import PartOrder
from ropewalk.corpus.join_rules import RelatedRules
from ropewalk.corpus.tokens.store import StoredDocuments

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
