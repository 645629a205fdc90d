"""Examples of documents dropped as copies, each beside the document that was kept, so that a person can judge.

The text is shown where the two documents first differ, since near copies mostly begin alike.
"""

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
    shown = {}
    for code in (EXACT, NEAR):
        dropped = [_Place(name, int(number)) for name in splits for number in np.flatnonzero(splits[name] == code)]
        if dropped:
            random = stream("copies shown", corpus.digest, seed, code)
            chosen = sorted(random.choice(len(dropped), size=min(_EXAMPLES, len(dropped)), replace=False).tolist())
            pairs = [(dropped[index], *_find_kept(corpus, dropped[index])) for index in chosen]
            shown[REASONS[code]] = [_show_pair(corpus, *pair, tokenizer) for pair in pairs]
    return shown


def _find_kept(corpus: Corpus, dropped: _Place) -> tuple[_Place, float | None]:
    """The document that was kept for a dropped one, and their similarity (None: the texts are equal)."""
    kept = _Place(*corpus.kept(dropped.source, dropped.document))

    def compare(column: str) -> Bool[np.ndarray, "..."]:
        first, second = (corpus.column(place.source, column)[place.document] for place in (dropped, kept))
        return np.asarray(first == second)

    return kept, None if compare("digests") else float(compare("signatures").mean())


def _show_pair(
    corpus: Corpus, dropped: _Place, kept: _Place, likeness: float | None, tokenizer: Tokenizer
) -> dict[str, Any]:
    texts = [_read(corpus, place, tokenizer) for place in (dropped, kept)]
    differ = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    if likeness is None:
        differ = 0
    begin, end = max(0, differ - _BEFORE_CHARACTERS), differ + _AFTER_CHARACTERS
    sides = {
        side: {
            "source": place.source,
            "id": corpus.ids(place.source, {place.document})[place.document],
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
