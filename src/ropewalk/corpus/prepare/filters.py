"""Filters between reading and tokenising a document: it is cleaned, and prompts and repeated sections are removed.

Each document is filtered alone and no state is kept, so any number of workers in any order keeps the same documents.
Repeated sections are cut in a separate step, because they are known only after all documents were cleaned.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import xxhash
from jaxtyping import UInt32

from ropewalk.core.digest import digest_value
from ropewalk.core.owned import Owned
from ropewalk.core.quantity import format_count
from ropewalk.core.record import Document
from ropewalk.corpus.clean.document import clean_document
from ropewalk.corpus.clean.quality import Measures
from ropewalk.corpus.dedup.decontaminate import Overlap, Prompts, Spans
from ropewalk.corpus.dedup.minhash import sign, sign_answers
from ropewalk.corpus.dedup.sign_short import sign_short
from ropewalk.corpus.prepare.score_text import Scorer
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.reject import Reject, excerpt, item_bytes, text_bytes
from ropewalk.corpus.text.short_texts import SHORT_CHARACTERS, group_short

REPEATED, CONTAMINATED, PASSAGE = "repeated section", "contaminated", "contaminated passage"


@dataclass(frozen=True)
class Cuts:
    """Spans of clean texts that are repeated elsewhere, by the digest of the text: half-open, sorted, not touching."""

    spans: Mapping[int, Spans] = field(default_factory=dict)

    @property
    def digest(self) -> str | None:
        """None where nothing is cut, whether or not a search was made."""
        return digest_value(self.to_json()) if self.spans else None

    def apply(self, text: str, digest: int) -> str:
        """``text``, whose digest is ``digest``, without its spans."""
        if digest not in self.spans:
            return text
        owned = Owned(text)
        del text
        return cut_spans(owned.take(), self.spans[digest])

    def to_json(self) -> list[Any]:
        """The cuts as JSON data, sorted by digest, so that equal cuts give equal JSON."""
        return [[digest, [list(span) for span in self.spans[digest]]] for digest in sorted(self.spans)]

    @classmethod
    def from_json(cls, entries: list[Any]) -> "Cuts":
        """The inverse of ``to_json``."""
        return cls({digest: tuple((start, end) for start, end in spans) for digest, spans in entries})


def cut_spans(text: str, spans: Spans) -> str:
    """A text without ``spans``."""
    borders = [0, *(border for span in spans for border in span), len(text)]
    parts = [text[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True)]
    del text  # frees a text without other references once it is in parts
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class Filtered:
    """The result of the filters for one document.

    ``outcome`` is the clean document or the reject. All other fields describe the clean text before repeated sections
    were cut.
    """

    outcome: Document | Reject
    measures: Measures
    whole_bytes: int = 0
    digest: int = 0
    signature: UInt32[np.ndarray, "128"] | None = None
    """None where nothing is tokenised."""
    passages: tuple[Reject, ...] = ()
    """Passages of evaluation prompts that were cut. All other fields describe the text without them."""
    scores: Mapping[str, float] | None = None
    """By column; None where the source has no ``score``."""


class _Unsigned(NamedTuple):
    """A kept document before it has its signature."""

    kept: Document
    measures: Measures
    whole_bytes: int
    digest: int
    passages: tuple[Reject, ...]
    scores: Mapping[str, float] | None

    def sign(self, signature: UInt32[np.ndarray, "128"]) -> Filtered:
        return Filtered(self.kept, self.measures, self.whole_bytes, self.digest, signature, self.passages, self.scores)


class Judged(NamedTuple):
    """An item of a source after the filters. ``read_bytes``: size of its text as it was read.

    ``filtered`` is None for an item that was rejected when it was read.
    """

    read_bytes: int
    outcome: Document | Reject
    filtered: Filtered | None


@dataclass(frozen=True)
class Filters:
    """The filters for the documents of a source, without the cuts."""

    source: Source
    prompts: Prompts
    scorer: Scorer | None = None

    def judge_all(self, items: Iterable[Document | Reject]) -> Iterator[Judged]:
        """Yield the result of each item, in order. Rejects are not filtered again.

        A document can be a whole book, so no reference to its earlier text is kept here.
        """
        for group in group_short(items, _count_characters):
            sizes = [item_bytes(item) for item in group]
            group.reverse()
            found = self._sign([self._clean(group.pop()) for _ in sizes])
            found.reverse()
            for size in sizes:
                yield _judged(size, Owned(found.pop()))

    def compare(self, kept: Document, measures: Measures, *, read_bytes: int) -> Filtered:
        """Apply the filters to a clean and measured document."""
        owned = Owned(kept)
        del kept
        (filtered,) = self._sign([self._compare(owned.take(), measures, read_bytes=read_bytes)])
        assert isinstance(filtered, Filtered)
        return filtered

    def _clean(self, item: Document | Reject) -> "Reject | Filtered | _Unsigned":
        """A document after cleaning and filters. A reject of the reading stays what it is."""
        if isinstance(item, Reject):
            return item
        profile, read = self.source.cleaning(item.language), Owned(item)
        del item
        cleaned = clean_document(read.take(), profile)
        outcome, measures, read_bytes = cleaned.outcome, cleaned.measures, cleaned.read_bytes
        del cleaned
        if isinstance(outcome, Reject):
            return Filtered(outcome, measures)
        clean = Owned(outcome)
        del outcome
        return self._compare(clean.take(), measures, read_bytes=read_bytes)

    def _compare(self, kept: Document, measures: Measures, *, read_bytes: int) -> "Filtered | _Unsigned":
        place, passages = str(kept.metadata.get("place", "")), tuple[Reject, ...]()
        found = self.prompts.find(kept.text)
        if found is not None:
            passages = self._list_passages(kept, found)
            if not passages:
                why = f"{found.share:.0%} of {found.prompt} is in it"
                return Filtered(Reject(kept.id, CONTAMINATED, read_bytes, why, place, excerpt(kept.text)), measures)
            whole, kept = Owned(kept.text), replace(kept, text="")
            kept = replace(kept, text=cut_spans(whole.take(), found.spans))
        encoded = kept.text.encode()
        digest, whole_bytes = xxhash.xxh3_64_intdigest(encoded), len(encoded)
        del encoded
        scores = None if self.scorer is None else self.scorer(kept)
        return _Unsigned(kept, measures, whole_bytes, digest, passages, scores)

    def _sign(self, found: "list[Reject | Filtered | _Unsigned]") -> list[Reject | Filtered]:
        """Give each document its signature. Short texts are signed together."""
        short = [
            at
            for at, each in enumerate(found)
            if isinstance(each, _Unsigned) and self._signs_text(each.kept) and len(each.kept.text) <= SHORT_CHARACTERS
        ]
        signatures = {}
        if len(short) > 1:
            texts = [each.kept.text for each in map(found.__getitem__, short) if isinstance(each, _Unsigned)]
            signatures = dict(zip(short, sign_short(texts), strict=True))
        signed: list[Reject | Filtered] = []
        for at, each in enumerate(found):
            if isinstance(each, _Unsigned):
                signature = signatures[at] if at in signatures else self._sign_alone(each.kept, each.digest)
                signed.append(each.sign(signature))
            else:
                signed.append(each)
        return signed

    def _signs_text(self, kept: Document) -> bool:
        """Whether a document's whole text is signed. Of a conversation only the answers are."""
        return self.source.embedded is not None or kept.loss_spans is None

    def _sign_alone(self, kept: Document, digest: int) -> UInt32[np.ndarray, "128"]:
        if self._signs_text(kept):
            return sign(kept.text)
        assert kept.loss_spans is not None
        return sign_answers("\n".join(kept.text[start:end] for start, end in kept.loss_spans), digest)

    def _list_passages(self, document: Document, found: Overlap) -> tuple[Reject, ...]:
        """The passages to cut from a document; empty where the whole document is dropped."""
        left = len(document.text) - sum(end - start for start, end in found.spans)
        may_cut = document.loss_spans is None and not self.source.tokens and self.prompts.action == "cut"
        if not may_cut or left < max(1, self.source.cleaning(document.language).min_characters):
            return ()
        why = f"{found.share:.0%} of {found.prompt} is in the document"
        place = str(document.metadata.get("place", ""))
        texts = [document.text[start:end] for start, end in found.spans]
        return tuple(Reject(document.id, PASSAGE, text_bytes(text), why, place, excerpt(text)) for text in texts)


def _count_characters(item: Document | Reject) -> int:
    return 0 if isinstance(item, Reject) else len(item.text)


def _judged(read_bytes: int, found: Owned[Reject | Filtered]) -> Judged:
    each = found.take()
    return Judged(read_bytes, each, None) if isinstance(each, Reject) else Judged(read_bytes, each.outcome, each)


def cut_repeats(judged: Iterable[Judged], cuts: Cuts, source: Source) -> Iterator[Judged]:
    """Yield each result with its repeated sections cut. A document with loss spans keeps them."""
    for each in judged:
        item = Owned(each)
        del each
        yield _cut(item, cuts, source)


def _cut(item: Owned[Judged], cuts: Cuts, source: Source) -> Judged:
    read_bytes, outcome, filtered = item.take()
    if filtered is None or isinstance(outcome, Reject):
        return Judged(read_bytes, outcome, filtered)
    if outcome.loss_spans is not None or filtered.digest not in cuts.spans:
        return Judged(read_bytes, outcome, filtered)
    characters, begin_and_end = len(outcome.text), excerpt(outcome.text)
    # The signature was made before the cut, so the two texts are never in memory at the same time.
    whole, outcome = Owned(outcome.text), replace(outcome, text="")
    filtered = replace(filtered, outcome=outcome)
    kept = replace(outcome, text=cuts.apply(whole.take(), filtered.digest))
    if len(kept.text) >= source.cleaning(kept.language).min_characters:
        return Judged(read_bytes, kept, replace(filtered, outcome=kept))
    why = f"in no other document: {format_count(len(kept.text), 'character')} of {characters}"
    place = str(kept.metadata.get("place", ""))
    reject = Reject(kept.id, REPEATED, read_bytes, why, place, begin_and_end)
    return Judged(read_bytes, reject, Filtered(reject, filtered.measures))
