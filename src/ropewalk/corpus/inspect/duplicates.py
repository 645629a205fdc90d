"""Examples of documents dropped as copies, each beside the document that was kept, so that a person can judge.

The text is shown where the two documents first differ, since near copies mostly begin alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from ropewalk.core.seed import stream
from ropewalk.corpus.prepare.splits import EXACT, NEAR, REASONS
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer

_EXAMPLES = 8
_READ_TOKENS = 1 << 15
_BEFORE_CHARACTERS, _AFTER_CHARACTERS = 40, 120


@dataclass(frozen=True, slots=True)
class _Place:
    source: str
    document: int


def show_copies(corpus: Corpus, *, tokenizer: Tokenizer, seed: int) -> dict[str, list[dict[str, Any]]]:
    """By reason, a few dropped documents, each with the kept one: ids, tokens, and the text where the two first differ.

    ``similarity`` is None where the texts are equal.
    """
    splits = {name: corpus.splits(name) for name in corpus.sources}
    pairs: dict[str, list[tuple[_Place, _Place, float | None]]] = {}
    for code in (EXACT, NEAR):
        numbers = [np.flatnonzero(split == code) for split in splits.values()]
        ends = np.cumsum([len(own) for own in numbers])
        if dropped := int(ends[-1]):
            random = stream("copies shown", corpus.digest, seed, code)
            chosen = np.sort(random.choice(dropped, size=min(_EXAMPLES, dropped), replace=False))
            homes = np.searchsorted(ends, chosen, side="right").tolist()
            places = [
                _Place(corpus.sources[home], int(numbers[home][index - int(ends[home])]))  # counted from its end
                for home, index in zip(homes, chosen.tolist(), strict=True)
            ]
            pairs[REASONS[code]] = [(place, *_find_kept(corpus, place)) for place in places]
    wanted: dict[str, set[int]] = {}
    for place in (place for found in pairs.values() for pair in found for place in pair[:2]):
        wanted.setdefault(place.source, set()).add(place.document)
    ids = {source: corpus.ids(source, numbers) for source, numbers in wanted.items()}  # each file is read once
    return {reason: [_show_pair(corpus, *pair, ids, tokenizer) for pair in found] for reason, found in pairs.items()}


def _find_kept(corpus: Corpus, dropped: _Place) -> tuple[_Place, float | None]:
    """The document that was kept for a dropped one, and their similarity (None: the texts are equal)."""
    kept = _Place(*corpus.kept(dropped.source, dropped.document))

    def compare(column: str) -> Bool[np.ndarray, "..."]:
        first, second = (corpus.column(place.source, column)[place.document] for place in (dropped, kept))
        return np.asarray(first == second)

    return kept, None if compare("digests") else float(compare("signatures").mean())


def _show_pair(
    corpus: Corpus,
    dropped: _Place,
    kept: _Place,
    likeness: float | None,
    ids: Mapping[str, Mapping[int, str]],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    texts = [_read(corpus, place, tokenizer) for place in (dropped, kept)]
    differ = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    if likeness is None:
        differ = 0
    begin, end = max(0, differ - _BEFORE_CHARACTERS), differ + _AFTER_CHARACTERS
    sides = {
        side: {
            "source": place.source,
            "id": ids[place.source][place.document],
            "tokens": int(corpus.column(place.source, "tokens")[place.document]),
            "text": " ".join(text[begin:end].split()),
        }
        for side, place, text in zip(("dropped", "kept"), (dropped, kept), texts, strict=True)
    }
    return {**sides, "similarity": likeness}


def _read(corpus: Corpus, place: _Place, tokenizer: Tokenizer) -> str:
    stored = corpus.stored(place.source)
    begin = 0 if tokenizer.bos_id is None else 1
    tokens, _ = stored.read(place.document, begin, min(_READ_TOKENS, int(stored.lengths[place.document]) - 1))
    return tokenizer.decode(tokens)
