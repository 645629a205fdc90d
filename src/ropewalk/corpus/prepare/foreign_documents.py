"""Reads documents outside the mix, and refuses those that a corpus holds.

A document is known by the digest of its clean text, as the corpus keeps it. The profile that cleaned it is not known
here, so the text is compared as it is and as each profile would leave it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash

from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.clean.normalize import normalize_document
from ropewalk.corpus.embedded import read_foreign_documents
from ropewalk.corpus.read.source import read_source
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.profile import PROFILES
from ropewalk.corpus.tokens.corpus_folder import Corpus

_ENOUGH_CHARACTERS = 8
"""Characters read per token that is asked for: a token of English has four or five."""


def read_foreign(source: Source | str, *, context_tokens: int, tokens: int) -> list[Document]:
    """Documents of files, or of a built-in source by its name, with text for ``tokens`` tokens or all there is.

    Of a document at most ``context_tokens`` count towards it at first. Raises UserError where nothing can be read.
    """
    found: list[Document] = []
    characters, longest = 0, _ENOUGH_CHARACTERS * context_tokens
    for document in _read_documents(source):
        found.append(document)
        characters += min(len(document.text), longest)
        if characters >= _ENOUGH_CHARACTERS * tokens:
            break
    return found


def _read_documents(source: Source | str) -> Iterator[Document]:
    if isinstance(source, str):
        yield from read_foreign_documents(source)
        return
    for item in read_source(source, seed=0):
        if isinstance(item, Document) and item.text.strip():
            yield item


def refuse_known_documents(name: str, documents: Sequence[Document], corpus: Corpus) -> None:
    """Raise UserError if the corpus has any of ``documents``, held out or trained on, or a source of their name."""
    if name in corpus.sources:
        raise _known(name, f"{corpus.folder} has a source {name}", fix="give it another name, or other text")
    mine: dict[int, str] = {}
    for document in documents:
        for text in _spellings(document.text):
            mine[xxhash.xxh3_64_intdigest(text.encode())] = document.id
    digests = np.array(sorted(mine), dtype=np.uint64)
    for source in corpus.sources:
        shared = np.intersect1d(digests, corpus.column(source, "digests"))
        if len(shared):
            why = f"its document {mine[int(shared[0])]} is in source {source} of {corpus.folder}"
            raise _known(name, why, fix="name text that no source of the corpus has")


def _known(name: str, why: str, *, fix: str) -> UserError:
    return UserError(
        f"foreign text {name} is in the mix",
        where="evaluate.foreign",
        why=f"{why}, so it does not show what training made the model forget",
        fix=fix,
    )


def _spellings(text: str) -> Iterator[str]:
    yield text
    for profile in PROFILES.values():
        yield normalize_document(text, profile)
        yield normalize_document(text, profile.only_judging)
