"""Examples of what was dropped as a copy, each beside what was kept instead, for a person to judge.

The kept one is looked for again, among all that stayed: the same text, or the signature that agrees most. Shown is the
place where the two texts first differ, since the heads of near copies mostly agree.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ropewalk.core.seed import stream
from ropewalk.corpus.folder import Corpus
from ropewalk.corpus.select import EXACT, HELD_OUT, NEAR, REASONS
from ropewalk.corpus.tokenize import Tokenizer

_EXAMPLES = 8
_BLOCK_DOCUMENTS = 1 << 16
_READ_TOKENS = 1 << 15
_BEFORE_CHARACTERS, _AFTER_CHARACTERS = 40, 120


@dataclass(frozen=True, slots=True)
class _Place:
    source: str
    document: int


def show_copies(corpus: Corpus, *, tokenizer: Tokenizer, seed: int) -> dict[str, list[dict[str, Any]]]:
    """By reason, a few dropped documents, each with the one kept in its place: ids, tokens, text where the two part.

    ``similarity`` is None where the texts are the same.
    """
    fates = {name: corpus.fates(name) for name in corpus.sources}
    shown = {}
    for code in (EXACT, NEAR):
        dropped = [_Place(name, int(number)) for name in fates for number in np.flatnonzero(fates[name] == code)]
        if dropped:
            random = stream("copies shown", corpus.digest, seed, code)
            chosen = sorted(random.choice(len(dropped), size=min(_EXAMPLES, len(dropped)), replace=False).tolist())
            pairs = [(dropped[index], *_find_kept(corpus, dropped[index])) for index in chosen]
            shown[REASONS[code]] = [_show_pair(corpus, *pair, tokenizer) for pair in pairs]
    return shown


def _find_kept(corpus: Corpus, dropped: _Place) -> tuple[_Place, float | None]:
    """The document that stayed and is most like a dropped one, and how like it is; None: it is the same text."""
    digest = corpus.column(dropped.source, "digests")[dropped.document]
    signature = corpus.column(dropped.source, "signatures")[dropped.document]
    best, likeness = None, -1.0
    for name in corpus.sources:
        kept = corpus.fates(name) <= HELD_OUT
        digests, signatures = corpus.column(name, "digests"), corpus.column(name, "signatures")
        for start in range(0, len(kept), _BLOCK_DOCUMENTS):
            block = slice(start, start + _BLOCK_DOCUMENTS)
            alike = _compare(digests[block] == digest, signatures[block], signature)
            alike[~kept[block]] = -1
            at = int(alike.argmax())
            if alike[at] > likeness:
                best, likeness = _Place(name, start + at), float(alike[at])
    assert best is not None, "something was kept, or nothing would have been dropped as a copy of it"
    return best, None if likeness > 1 else likeness


def _compare(equal: Bool[np.ndarray, "block"], signatures: Any, signature: Any) -> Float64[np.ndarray, "block"]:
    """The estimated similarity; the same text counts for more than any estimate."""
    return np.where(equal, 2.0, (signatures == signature).mean(axis=1))


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
