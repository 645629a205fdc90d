"""What stands between a document that was read and one that is tokenised: cleaned, clear of prompts, without repeats.

One document at a time and nothing remembered, so that any number of workers in any order lets the same documents pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ropewalk.core.digest import digest_value
from ropewalk.core.record import Document
from ropewalk.corpus.clean import clean_document
from ropewalk.corpus.decontaminate import Prompts
from ropewalk.corpus.measures import Measures
from ropewalk.corpus.reject import Reject, excerpt
from ropewalk.corpus.spec import Source

REPEATED = "repeated section"


@dataclass(frozen=True)
class Cuts:
    """Spans of a source's clean text that stand elsewhere, by document: half-open, in order, apart from each other."""

    spans: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @property
    def digest(self) -> str | None:
        """None where nothing is cut, whoever looked."""
        return digest_value([[number, self.spans[number]] for number in sorted(self.spans)]) if self.spans else None

    def apply(self, text: str, number: int) -> str:
        """The text of document ``number`` without its spans."""
        if number not in self.spans:
            return text
        borders = [0, *(border for span in self.spans[number] for border in span), len(text)]
        return "".join(text[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True))


@dataclass(frozen=True, slots=True)
class Screened:
    """``outcome`` is what is tokenised or why nothing is; ``whole`` is its clean text before repeats were cut."""

    outcome: Document | Reject
    whole: str
    measures: Measures | None
    cut_bytes: int = 0


@dataclass(frozen=True)
class Screen:
    """How a source's documents are let pass."""

    source: Source
    prompts: Prompts
    cuts: Cuts

    def judge(self, document: Document, number: int) -> Screened:
        """What becomes of a document, the source's ``number``-th, counted from 0 over its documents alone."""
        profile = self.source.cleaning(document.language)
        cleaned = clean_document(document, profile)
        kept = cleaned.outcome
        if isinstance(kept, Reject):
            return Screened(kept, "", cleaned.measures)
        size, place = len(document.text.encode()), str(document.metadata.get("place", ""))
        found = self.prompts.find(kept.text)
        if found is not None:
            why = f"shares a run of words with {found}"
            refused = Reject(kept.id, "contaminated", size, why, place, excerpt(kept.text))
            return Screened(refused, "", cleaned.measures)
        text = self.cuts.apply(kept.text, number)
        if len(text) < profile.min_characters:
            why = f"{len(text)} characters of {len(kept.text)} stand nowhere else"
            return Screened(Reject(kept.id, REPEATED, size, why, place, excerpt(kept.text)), "", cleaned.measures)
        cut_bytes = len(kept.text.encode()) - len(text.encode()) if text is not kept.text else 0
        return Screened(replace(kept, text=text), kept.text, cleaned.measures, cut_bytes)
