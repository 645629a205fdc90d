"""Cleans a document by its profile, or drops it with a reason.

There are three separate steps: normalize the text, measure it, and compare the measures with the profile's thresholds.
The measures of every document are recorded, so that another threshold can be judged before it is used.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ropewalk.core.owned import Owned
from ropewalk.core.record import Document
from ropewalk.corpus.clean.normalize import normalize_document, normalize_text
from ropewalk.corpus.clean.pii import mask
from ropewalk.corpus.clean.quality import Measures, find_text_fault, measure_text
from ropewalk.corpus.text.profile import Profile
from ropewalk.corpus.text.reject import Reject, excerpt, text_bytes
from ropewalk.corpus.text.short_texts import SHORT_CHARACTERS

CLEANING = 3
"""A version number. Increase it when the same profile would give another text, or when a text would get another
language and so another profile."""
MASKED = "masked"
"""Key of a document's metadata. It means that personal data was masked in the document's answers."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A normalized document or its reject, with the measures."""

    outcome: Document | Reject
    measures: Measures
    read_bytes: int
    """Size of the text before cleaning, in bytes."""


def clean_document(document: Document, profile: Profile) -> Cleaned:
    """Mend, measure and judge a document. Loss spans move with the text."""
    read_bytes = text_bytes(document.text)
    if document.loss_spans is None and len(document.text) <= SHORT_CHARACTERS:
        normalized = replace(document, text=normalize_document(document.text, profile))
    elif document.loss_spans is None:
        # A text without any other reference is freed once it is split into blocks.
        read, document = Owned(document.text), replace(document, text="")
        normalized = replace(document, text=normalize_document(read.take(), profile))
    else:
        normalized = _normalize_spans(document, profile)
    measures = measure_text(normalized.text)
    fault = find_text_fault(measures, profile)
    if fault is None:
        return Cleaned(normalized, measures, read_bytes)
    place = str(document.metadata.get("place", ""))
    reject = Reject(document.id, fault.reason, read_bytes, fault.why, place, excerpt(normalized.text))
    return Cleaned(reject, measures, read_bytes)


def _normalize_spans(document: Document, profile: Profile) -> Document:
    assert document.loss_spans is not None
    borders = [0, *(border for span in document.loss_spans for border in span), len(document.text)]
    normalized = [normalize_text(document.text[start:end]) for start, end in pairwise(borders)]
    pieces = [mask(piece, profile.mask) for piece in normalized]
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    known = {MASKED: True} if pieces[1::2] != normalized[1::2] else {}
    return replace(
        document,
        text="".join(pieces),
        loss_spans=tuple(zip(ends[0::2], ends[1::2], strict=False)),
        metadata={**document.metadata, **known},
    )
