"""Chinese prose that people would write: essays, letters, notices, popular science, tales, reviews, reports.

The other Chinese sources are generated from grammars, and a base that is trained on these alone reads other Chinese
worse (docs/ratio-study.md). So a mix takes a small share of this source. It is written for this project. None of it
stands in the essays that measure what a model forgets.
"""

from collections.abc import Iterator
from typing import Literal, get_args

from pydantic import Field, field_validator

from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.core.spec import Spec
from ropewalk.corpus.embedded.titled import read_titled

ProseKind = Literal["knowledge", "life", "long", "opinion", "public", "tales"]


class ProseDocuments(Spec):
    """Options: which kinds. ``long`` has five of more than 1,200 characters; the others have about 370 on average."""

    kinds: tuple[ProseKind, ...] = Field(default=get_args(ProseKind), min_length=1)

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, kinds: tuple[ProseKind, ...]) -> tuple[ProseKind, ...]:
        if len(set(kinds)) < len(kinds):
            raise ValueError("a kind is named twice; its documents are read once")
        return kinds


def write_prose(options: ProseDocuments, seed: int) -> Iterator[Document]:
    """Yield each document of the chosen kinds once, in an order by seed, so that a part of them has every kind."""
    texts = [(title, text) for kind in options.kinds for title, text in read_titled(f"prose_zh_{kind}.txt")]
    for i in stream("embedded", "prose_zh", seed).permutation(len(texts)):
        title, text = texts[i]
        yield Document(text, "prose_zh", "general", "zh", title, metadata={"place": title})
