"""Reads documents that are given as token ids, made by the tools of another trainer with this model's tokenizer.

They enter the store unchanged except for their borders, which become those of all documents: BOS if the base adds one,
the ids, EOS. Their text is decoded to find the language, copies and prompts. It is not cleaned.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Shaped, UInt8

from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.clean.quality import measure_text
from ropewalk.corpus.prepare.filters import Filters
from ropewalk.corpus.prepare.tokenized import Gathered, take_notes
from ropewalk.corpus.read.find_files import FoundFiles, find_all
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.language import judge_language
from ropewalk.corpus.text.reject import Reject, item_bytes
from ropewalk.corpus.tokens.foreign_formats import Tokens, companions, read_tokens
from ropewalk.corpus.tokens.same_tokenizer import require_exported
from ropewalk.corpus.tokens.store import write_shards
from ropewalk.corpus.tokens.tokenizer import Tokenizer

_SUFFIXES = MappingProxyType({"megatron": ".bin", "datatrove": ".ds", "olmo": ".npy"})


def token_files(source: Source) -> dict[str, Path]:
    """All files of a source of token ids, by their names in the source."""
    found = _find(source)
    if source.tokens == "datasets":
        return {file.name: file.path for file in found.files}
    every = [each for file in found.files for each in (file.path, *companions(file.path))]
    return {path.relative_to(found.root).as_posix(): path for path in every}


def _find(source: Source) -> FoundFiles:
    """The files of ids, or all files of a saved dataset. In a folder or glob the suffix identifies files of ids."""
    found = find_all(str(source.path), kind="tokens", where=f"source {source.name}")
    suffix = _SUFFIXES.get(str(source.tokens), "")
    files = tuple(file for file in found.files if len(found.files) == 1 or file.name.endswith(suffix))
    if not files:
        raise UserError(
            "a source has no files",
            where=f"source {source.name}: {source.path}",
            why=f"none of its files ({len(found.files):,}) ends in {suffix}",
            fix=f"give the path of the token id files, or another format than tokens: {source.tokens}",
        )
    return replace(found, files=files)


def read_imported(source: Source, tokenizer: Tokenizer) -> Iterator[tuple[str, Tokens]]:
    """Yield (id, tokens) of every document.

    Raises UserError for an id outside the vocabulary, and for ids exported with another tokenizer.
    """
    assert source.tokens is not None
    if source.tokens == "datasets":
        paths = {"": Path(str(source.path))}
    else:
        paths = {file.name: file.path for file in _find(source).files}
    for name, path in paths.items():
        require_exported(path, tokenizer)
        found = read_tokens(path, format=source.tokens, vocabulary=tokenizer.vocabulary, eos_id=tokenizer.eos_id)
        for number, (ids, mask) in enumerate(found):
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocabulary:
                raise UserError(
                    "a token id is not in the vocabulary",
                    where=f"{path}, document {number}",
                    why=f"ids from {ids.min()} to {ids.max()}; the tokenizer has {tokenizer.vocabulary:,}",
                    fix="use the model whose tokenizer made these ids, or give the format of the files",
                )
            yield f"{name}:{number}" if name else f"row {number}", (ids, mask)


def write_imported(
    documents: Iterator[tuple[str, Tokens]], filters: Filters, *, tokenizer: Tokenizer, gathered: Gathered, folder: Path
) -> None:
    """Write documents into ``folder`` as ``write_documents`` does, with the same columns."""
    source = filters.source
    with take_notes(gathered, folder) as notes:

        def kept() -> Iterator[Tokens]:
            for id, (ids, mask) in documents:
                ids, mask = _bare(ids, mask, tokenizer)
                text, spans = _read_text(ids, mask, tokenizer)
                if not len(ids):
                    notes.take(0, Reject(id, "too short", 0, "no token but its borders", id), None)
                    continue
                language = source.language or judge_language(text)
                document = Document(text, source.name, source.role, language, id, spans, {"place": id})
                size = item_bytes(document)
                judged = filters.compare(document, measure_text(text), read_bytes=size)
                if notes.take(size, judged.outcome, judged):
                    bordered = _border(ids, mask, tokenizer)
                    gathered.tokens.append(len(bordered[0]))
                    yield bordered

        write_shards(kept(), folder, vocabulary=tokenizer.vocabulary)


def _read_text(
    ids: Shaped[np.ndarray, "tokens"], mask: UInt8[np.ndarray, "tokens"], tokenizer: Tokenizer
) -> tuple[str, tuple[tuple[int, int], ...] | None]:
    """The text of a document, and the character spans that are trained on (None: all of it)."""
    if mask.all():
        return tokenizer.decode(ids), None
    borders = np.flatnonzero(np.diff(mask, prepend=mask[:1], append=2))
    text, spans = "", []
    for start, end in zip([0, *borders], borders, strict=False):
        begin, text = len(text), text + tokenizer.decode(ids[start:end])
        if mask[start]:
            spans.append((begin, len(text)))
    return text, tuple(spans)


def _bare(ids: Shaped[np.ndarray, "tokens"], mask: UInt8[np.ndarray, "tokens"], tokenizer: Tokenizer) -> Tokens:
    """``ids`` and ``mask`` without BOS and EOS, where they exist."""
    begin = 1 if tokenizer.bos_id is not None and len(ids) and ids[0] == tokenizer.bos_id else 0
    end = len(ids) - 1 if len(ids) > begin and ids[-1] == tokenizer.eos_id else len(ids)
    return ids[begin:end], mask[begin:end]


def _border(ids: Shaped[np.ndarray, "tokens"], mask: UInt8[np.ndarray, "tokens"], tokenizer: Tokenizer) -> Tokens:
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    bordered = np.concatenate([np.array(start, dtype=np.int64), ids.astype(np.int64), [tokenizer.eos_id]])
    # If the last token is an answer token, the model also learns to end there.
    trained = np.concatenate([np.ones(len(start), np.uint8), mask.astype(np.uint8), mask[-1:].astype(np.uint8)])
    return bordered, trained
