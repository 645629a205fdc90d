"""One source, read, cleaned and tokenised once into a finished folder of the store.

The folder's name is a digest of all that decides its content: the files' bytes (or the generator's code and options),
how they are read and cleaned, and the tokenizer. What else may be in a run's corpus, its role and its weight are not
part of it, so that changing a mix never tokenises again.
"""

import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import xxhash
from jaxtyping import Int64, Shaped, UInt32, UInt64

import ropewalk.corpus.embedded
from ropewalk.core.artifact import read_manifest
from ropewalk.core.digest import digest_file, digest_value
from ropewalk.core.error import UserError
from ropewalk.core.record import Document
from ropewalk.corpus.audit import SourceLedger
from ropewalk.corpus.clean import CLEANING, PROFILES, clean_document
from ropewalk.corpus.decontaminate import Prompts
from ropewalk.corpus.dedup import sign
from ropewalk.corpus.read import Reject, digest_files, without_document
from ropewalk.corpus.spec import Source
from ropewalk.corpus.store import write_shards
from ropewalk.corpus.tokenize import Encoded, Tokenizer

_FORMAT = 1


@dataclass(frozen=True)
class Tokenized:
    """A source's finished folder: what is known of each document, beside its tokens."""

    folder: Path
    ledger: SourceLedger
    languages: tuple[str, ...]
    """Names for the numbers in ``language``."""
    digests: UInt64[np.ndarray, "documents"]
    """Of the cleaned text."""
    signatures: UInt32[np.ndarray, "documents 128"]
    bytes: Int64[np.ndarray, "documents"]
    tokens: Int64[np.ndarray, "documents"]
    language: Int64[np.ndarray, "documents"]


@dataclass(slots=True)
class Gathered:
    """What is learnt while documents go by: one shard's worth."""

    ledger: SourceLedger = field(default_factory=SourceLedger)
    digests: list[int] = field(default_factory=list)
    signatures: list[UInt32[np.ndarray, "128"]] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)

    def take(self, text: str, *, language: str) -> None:
        """What is asked of a text that is stored."""
        encoded = text.encode()
        self.ledger.stored.add(bytes=len(encoded))
        self.digests.append(xxhash.xxh3_64_intdigest(encoded))
        self.signatures.append(sign(text))
        self.bytes.append(len(encoded))
        self.languages.append(language)

    def write(self, folder: Path) -> None:
        """Every column as a file."""
        for name, column in self.columns().items():
            np.save(folder / f"{name}.npy", column, allow_pickle=False)

    def columns(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """What is known of each document, as arrays."""
        names = sorted(set(self.languages))
        return {
            "digests": np.array(self.digests, dtype=np.uint64),
            "signatures": np.array(self.signatures, dtype=np.uint32),
            "bytes": np.array(self.bytes, dtype=np.int64),
            "tokens": np.array(self.tokens, dtype=np.int64),
            "language": np.array([names.index(name) for name in self.languages], dtype=np.int64),
        }

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        self.ledger.stored.tokens = sum(self.tokens)
        self.ledger.check_store()
        return {"ledger": self.ledger.to_json(), "languages": sorted(set(self.languages))}


def describe_inputs(source: Source, tokenizer: Tokenizer, prompts: Prompts, seed: int) -> dict[str, Any]:
    """All that decides a source's tokens, JSON-like; its digest names the folder."""
    if source.embedded is not None:
        code = Path(ropewalk.corpus.embedded.__path__[0])
        made_by = {
            path.relative_to(code).as_posix(): digest_file(path)
            for path in sorted(code.rglob("*"))
            if path.is_file() and path.suffix != ".pyc"
        }
        # Some generators read the files of the Python that runs.
        origin: Any = [source.embedded, seed, platform.python_version(), digest_value(made_by)]
    else:
        origin = source.hub if source.hub is not None else digest_files(source)
    reading = source.model_dump(mode="json", include={"language", "text_key", "size_bytes", "faults", "options"})
    return {
        "format": _FORMAT,
        "origin": origin,
        "reading": reading,
        "cleaning": [CLEANING, source.profile or source.role, {name: asdict(PROFILES[name]) for name in PROFILES}],
        "prompts": list(prompts.digest),
        "tokenizer": tokenizer.digest,
    }


def write_documents(
    items: Iterable[Document | Reject],
    source: Source,
    *,
    tokenizer: Tokenizer,
    prompts: Prompts,
    gathered: Gathered,
    folder: Path,
) -> None:
    """Clean and tokenise ``items`` of a source into ``folder``: shards, columns, and a line for each item."""
    with (folder / "documents.jsonl").open("w", encoding="utf-8") as log:
        documents = _clean(items, source, prompts=prompts, gathered=gathered, log=log)
        encoded = _count(tokenizer.encode_documents(documents), gathered)
        write_shards(encoded, folder, vocabulary=tokenizer.vocabulary)
    gathered.write(folder)


def item_bytes(item: Document | Reject) -> int:
    """How much text an item is, as it was read."""
    return item.size_bytes if isinstance(item, Reject) else len(item.text.encode())


def _clean(
    items: Iterable[Document | Reject], source: Source, *, prompts: Prompts, gathered: Gathered, log: TextIO
) -> Iterator[Document]:
    """The documents that stay; every item leaves a line in ``log`` and its size in the ledger."""
    ledger = gathered.ledger
    for item in items:
        size = item_bytes(item)
        ledger.read.add(bytes=size)
        kept = item
        if isinstance(item, Document):
            kept = clean_document(item, PROFILES[source.cleaning(item.language)])
        if isinstance(kept, Document) and prompts.touches(kept.text):
            kept = Reject(kept.id, "contaminated", size)
        if isinstance(kept, Reject):
            ledger.dropped[kept.reason].add(bytes=kept.size_bytes)
            log.write(json.dumps({"id": kept.id, "dropped": kept.reason}, ensure_ascii=False) + "\n")
            continue
        gathered.take(kept.text, language=kept.language)
        ledger.trimmed_bytes += size - gathered.bytes[-1]
        log.write(json.dumps({"id": kept.id, "language": kept.language}, ensure_ascii=False) + "\n")
        yield kept


def _count(documents: Iterable[Encoded], gathered: Gathered) -> Iterator[Encoded]:
    for tokens, mask in documents:
        gathered.tokens.append(len(tokens))
        yield tokens, mask


def open_tokenized(folder: Path) -> Tokenized:
    """A source's finished folder."""
    facts = read_manifest(folder)["facts"]
    columns = {
        name: np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("digests", "signatures", "bytes", "tokens", "language")
    }
    ledger = SourceLedger.from_json(facts["ledger"])
    return Tokenized(folder=folder, ledger=ledger, languages=tuple(facts["languages"]), **columns)


def refuse_empty(source: Source, ledger: SourceLedger) -> None:
    """Raise UserError unless some document of the source was stored."""
    if ledger.stored.documents:
        return
    if not ledger.read.documents:
        raise without_document(source, 0)
    reasons = ", ".join(f"{reason} {amount.documents:,}" for reason, amount in ledger.dropped.items())
    raise UserError(
        f"nothing of source {source.name} is left",
        where=f"source {source.name}, profile {source.profile or 'by role and language'}",
        why=f"all {ledger.read.documents:,} documents were dropped: {reasons}",
        fix="choose the profile that fits the text (prose_en, prose_zh, code, law, instruction), or another text_key",
    )
