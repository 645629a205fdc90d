"""One source, read, cleaned and tokenised once into a finished folder of the store.

The folder's name is a digest of all that determines its content: the bytes of the files (or the code and options of the
generator), the reading, the cleaning, and the tokenizer. The other sources of a corpus, the role and the weight are not
part of it, so a change of the mix never tokenises again.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import Int64, Shaped, UInt32, UInt64

from ropewalk.core.artifact import read_manifest
from ropewalk.core.error import UserError
from ropewalk.core.owned import Owned
from ropewalk.core.quantity import format_count
from ropewalk.core.record import Document
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.clean.document import MASKED
from ropewalk.corpus.prepare.filters import CONTAMINATED, PASSAGE, REPEATED, Filtered, Judged
from ropewalk.corpus.prepare.ledger import SourceLedger
from ropewalk.corpus.read.join_parts import PART
from ropewalk.corpus.read.provenance import ORIGIN
from ropewalk.corpus.read.source import without_document
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.language import settle_languages
from ropewalk.corpus.text.profile import PROFILES
from ropewalk.corpus.text.reject import Reject, text_bytes
from ropewalk.corpus.tokens.store import write_shards
from ropewalk.corpus.tokens.tokenizer import Encoded, Tokenizer

_HEAD_CHARACTERS = 60


@dataclass(frozen=True)
class Tokenized:
    """A finished folder of a source. Each column is mapped from disk anew, so that its pages are freed with it."""

    folder: Path
    ledger: SourceLedger
    languages: tuple[str, ...]
    """Language names; ``language`` holds indices into them."""

    @property
    def digests(self) -> UInt64[np.ndarray, "documents"]:
        """Digests of the cleaned text before repeated sections were cut. Signatures are of it too."""
        return self._map("digests")

    @property
    def bytes(self) -> Int64[np.ndarray, "documents"]:
        """Size of the stored text."""
        return self._map("bytes")

    @property
    def tokens(self) -> Int64[np.ndarray, "documents"]:
        """Number of tokens."""
        return self._map("tokens")

    @property
    def language(self) -> Int64[np.ndarray, "documents"]:
        """Index of the language."""
        return self._map("language")

    def _map(self, name: str) -> Shaped[np.ndarray, "documents"]:
        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))


@dataclass(slots=True)
class Gathered:
    """The data collected from the documents of one shard."""

    ledger: SourceLedger = field(default_factory=SourceLedger)
    digests: list[int] = field(default_factory=list)
    signatures: list[UInt32[np.ndarray, "128"]] = field(default_factory=list)
    whole_bytes: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    contaminated: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By prompt, the number of dropped documents and cut passages."""
    tokens: list[int] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)

    def take(self, document: Document, filtered: Filtered) -> None:
        """Record the properties of a stored document."""
        assert filtered.signature is not None
        size = text_bytes(document.text)
        self.ledger.stored.add(bytes=size)
        self.ledger.masked_answers += MASKED in document.metadata
        self.digests.append(filtered.digest)
        self.signatures.append(filtered.signature)
        self.whole_bytes.append(filtered.whole_bytes)
        self.bytes.append(size)
        self.languages.append(document.language)

    def write(self, folder: Path) -> None:
        """Write every column to a file."""
        for name, column in self.columns().items():
            np.save(folder / f"{name}.npy", column, allow_pickle=False)

    def columns(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The recorded properties of the documents, as arrays."""
        names = sorted(set(self.languages))
        return {
            "digests": np.array(self.digests, dtype=np.uint64),
            "signatures": np.array(self.signatures, dtype=np.uint32),
            "whole_bytes": np.array(self.whole_bytes, dtype=np.int64),
            "bytes": np.array(self.bytes, dtype=np.int64),
            "tokens": np.array(self.tokens, dtype=np.int64),
            "language": np.array([names.index(name) for name in self.languages], dtype=np.int64),
        }

    def facts(self) -> dict[str, Any]:
        """The facts for the manifest."""
        self.ledger.stored.tokens = sum(self.tokens)
        self.ledger.check_store()
        languages = sorted(set(self.languages))
        return {"ledger": self.ledger.to_json(), "languages": languages, "contaminated": dict(self.contaminated)}


@dataclass(frozen=True)
class Notes:
    """Writes one line for each item of a source, and one line for each reject."""

    gathered: Gathered
    log: TextIO
    rejects: TextIO

    def take(self, size_bytes: int, kept: Document | Reject, filtered: Filtered | None) -> bool:
        """Record the outcome ``kept`` of an item with ``size_bytes`` bytes of text. Returns whether it is stored.

        ``filtered`` is None if the item was not filtered.
        """
        gathered, ledger = self.gathered, self.gathered.ledger
        ledger.read.add(bytes=size_bytes)
        if isinstance(kept, Reject):
            ledger.dropped[kept.reason].add(bytes=kept.size_bytes)
            if kept.reason == CONTAMINATED:
                gathered.contaminated[kept.why] += 1
            self.rejects.write(kept.to_line())
            self.log.write(_line(kept.id, filtered, dropped=kept.reason))
            return False
        assert filtered is not None
        gathered.take(kept, filtered)
        cut_bytes = filtered.whole_bytes - gathered.bytes[-1]
        passage_bytes = sum(passage.size_bytes for passage in filtered.passages)
        ledger.trimmed_bytes += size_bytes - filtered.whole_bytes - passage_bytes
        if filtered.passages:
            ledger.dropped[PASSAGE].add(documents=0, bytes=passage_bytes, passages=len(filtered.passages))
        for passage in filtered.passages:
            gathered.contaminated[passage.why] += 1
            self.rejects.write(passage.to_line())
        if cut_bytes:
            ledger.dropped[REPEATED].add(documents=0, bytes=cut_bytes)
        begin = kept.text[:_HEAD_CHARACTERS]
        known = {"scores": filtered.scores, **{name: kept.metadata.get(name) for name in (ORIGIN, PART)}}
        known = {name: value for name, value in known.items() if value is not None}
        self.log.write(_line(kept.id, filtered, language=kept.language, cut_bytes=cut_bytes, text=begin, **known))
        return True


@contextmanager
def take_notes(gathered: Gathered, folder: Path) -> Iterator[Notes]:
    """Write ``documents.jsonl`` and ``rejects.jsonl`` item by item, and every column at the end."""
    with (
        (folder / "documents.jsonl").open("w", encoding="utf-8") as log,
        (folder / "rejects.jsonl").open("w", encoding="utf-8") as rejects,
    ):
        yield Notes(gathered, log, rejects)
    gathered.write(folder)


def write_documents(judged: Iterable[Judged], *, tokenizer: Tokenizer, gathered: Gathered, folder: Path) -> None:
    """Tokenise the items of a source into ``folder``: shards, columns, and a line for each item."""
    with take_notes(gathered, folder) as notes:
        encoded = _count(tokenizer.encode_documents(_take_all(judged, notes)), gathered)
        write_shards(encoded, folder, vocabulary=tokenizer.vocabulary)


def _take_all(judged: Iterable[Judged], notes: Notes) -> Iterator[Document]:
    """Yield the documents that are stored, without keeping a reference, so that the caller can free each."""
    for size_bytes, outcome, filtered in judged:
        if notes.take(size_bytes, outcome, filtered):
            assert isinstance(outcome, Document)
            kept = Owned(outcome)
            del outcome, filtered
            yield kept.take()


def _line(id: str, filtered: Filtered | None, **facts: Any) -> str:
    """The facts of an item as a line of JSON."""
    measures = filtered.measures.to_json() if filtered else None
    return spell_json({"id": id, **facts, "measures": measures}, ensure_ascii=False) + "\n"


def _count(documents: Iterable[Encoded], gathered: Gathered) -> Iterator[Encoded]:
    for tokens, mask in documents:
        gathered.tokens.append(len(tokens))
        yield tokens, mask


def open_tokenized(folder: Path) -> Tokenized:
    """Open the finished folder of a source."""
    facts = read_manifest(folder)["facts"]
    ledger = SourceLedger.from_json(facts["ledger"])
    return Tokenized(folder=folder, ledger=ledger, languages=tuple(facts["languages"]))


def settle_parts(parts: Sequence[Path]) -> list[list[str]]:
    """The language names of each part of a source. An uncertain one becomes the most frequent one of its script.

    Workers decide by the text alone, and ``documents.jsonl`` keeps their decisions.
    """
    named: list[list[str]] = [read_manifest(part)["facts"]["languages"] for part in parts]
    documents: Counter[str] = Counter()
    for part, own in zip(parts, named, strict=True):
        counts = np.bincount(np.load(part / "language.npy", allow_pickle=False), minlength=len(own))
        documents.update(dict(zip(own, counts.tolist(), strict=True)))
    settled = settle_languages(documents)
    return [[settled.get(name, name) for name in own] for own in named]


def refuse_empty(source: Source, ledger: SourceLedger) -> None:
    """Raise UserError unless a document of the source was stored."""
    if ledger.stored.documents:
        return
    if not ledger.read.documents:
        raise without_document(source, ())
    reasons = ", ".join(f"{reason} ({amount.documents:,})" for reason, amount in ledger.dropped.items())
    raise UserError(
        f"no document of source {source.name} is left",
        where=f"source {source.name}, profile {_name_profile(source)}",
        why=f"{format_count(ledger.read.documents, 'document')} read, all dropped: {reasons}",
        fix=f"choose a profile that fits the text ({', '.join(PROFILES)}), or another text_key",
    )


def _name_profile(source: Source) -> str:
    if source.profile is None:
        return "by role and language"
    return source.profile if isinstance(source.profile, str) else f"like {source.profile.like}, changed"
