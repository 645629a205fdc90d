"""Keep evaluation prompts out of the training text: 13 words in a row, as GPT-3's authors first compared.

A document that shares any such run with a prompt is dropped whole and counted. A Han character is a word here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from ropewalk.core.digest import digest_file
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.language import blocks
from ropewalk.corpus.read import read_source
from ropewalk.corpus.shingle import shingles, word_hashes
from ropewalk.corpus.spec import Source

RUN_WORDS = 13
_OVERLAP_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Prompts:
    """Every run of 13 words of the evaluation prompts, sorted; ``digest`` names their files' contents."""

    runs: UInt64[np.ndarray, "runs"]
    digest: tuple[str, ...]

    def touches(self, text: str) -> bool:
        """Whether the text shares a run of words with a prompt."""
        if len(self.runs) == 0:
            return False
        return any(
            bool(np.isin(shingles(word_hashes(block), RUN_WORDS), self.runs).any())
            for block in blocks(text, overlap=_OVERLAP_CHARACTERS)
        )


def read_prompts(paths: Iterable[str]) -> Prompts:
    """The prompts of files that a source could read. Raises UserError for one too short to be compared."""
    runs = [np.empty(0, dtype=np.uint64)]
    digests = []
    for path in paths:
        source = Source(name="prompts", path=path, role="general", language="none")
        for document in read_source(source, seed=0):
            assert isinstance(document, Document)
            words = word_hashes(document.text)
            if len(words) < RUN_WORDS:
                raise UserError(
                    "an evaluation prompt is too short to look for",
                    where=f"corpus.decontaminate: {document.id}",
                    why=f"{len(words)} words; fewer than {RUN_WORDS} in a row are found in any text by chance",
                    fix="join it with its context, or take it out of the file",
                )
            runs.append(shingles(words, RUN_WORDS))
        digests.append(digest_file(Path(path)))
    return Prompts(np.unique(np.concatenate(runs)), tuple(digests))
