"""One source, read, cleaned and tokenised once into a finished folder of the store.

The folder's name is a digest of all that decides its content: the files' bytes (or the generator's code and options),
how they are read and cleaned, and the tokenizer. What else may be in a run's corpus, its role and its weight are not
part of it, so that changing a mix never tokenises again.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import Int64, Shaped, UInt32, UInt64

from ropewalk.core.artifact import is_finished, new_folder, read_manifest
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.progress import say, watch
from ropewalk.core.record import Document
from ropewalk.corpus.audit import SourceLedger
from ropewalk.corpus.decontaminate import Prompts
from ropewalk.corpus.dedup import sign
from ropewalk.corpus.origin import describe_text
from ropewalk.corpus.read import read_source, source_megabytes
from ropewalk.corpus.reject import Reject
from ropewalk.corpus.screen import CONTAMINATED, REPEATED, Cuts, Screen, Screened
from ropewalk.corpus.spec import Source
from ropewalk.corpus.store import write_shards
from ropewalk.corpus.tokenize import Encoded, Tokenizer

_FORMAT = 2
_HEAD_CHARACTERS = 60


@dataclass(frozen=True)
class Tokenized:
    """A source's finished folder: what is known of each document, beside its tokens."""

    folder: Path
    ledger: SourceLedger
    languages: tuple[str, ...]
    """Names for the numbers in ``language``."""
    digests: UInt64[np.ndarray, "documents"]
    """Of the cleaned text, before sections that repeat were cut; so are signatures and whole_bytes."""
    signatures: UInt32[np.ndarray, "documents 128"]
    whole_bytes: Int64[np.ndarray, "documents"]
    bytes: Int64[np.ndarray, "documents"]
    tokens: Int64[np.ndarray, "documents"]
    language: Int64[np.ndarray, "documents"]


@dataclass(slots=True)
class _Gathered:
    """What is learnt while documents go by."""

    ledger: SourceLedger = field(default_factory=SourceLedger)
    digests: list[int] = field(default_factory=list)
    signatures: list[UInt32[np.ndarray, "128"]] = field(default_factory=list)
    whole_bytes: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    contaminated: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Documents dropped for each prompt."""
    tokens: list[int] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)

    def take(self, document: Document, screened: Screened) -> None:
        """What is asked of a document that is stored."""
        size = len(document.text.encode())
        self.ledger.stored.add(bytes=size)
        self.digests.append(screened.digest)
        self.signatures.append(sign(screened.whole))
        self.whole_bytes.append(screened.whole_bytes)
        self.bytes.append(size)
        self.languages.append(document.language)

    def columns(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """What is known of each document, as arrays."""
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
        """For the manifest."""
        self.ledger.stored.tokens = sum(self.tokens)
        self.ledger.check_store()
        languages = sorted(set(self.languages))
        return {"ledger": self.ledger.to_json(), "languages": languages, "contaminated": dict(self.contaminated)}


def tokenize_source(
    source: Source, *, tokenizer: Tokenizer, prompts: Prompts, cuts: Cuts, seed: int, store: Path
) -> Tokenized:
    """The source's folder in ``store``: made now, or found there. Raises UserError for what cannot be read."""
    text = describe_text(source, prompts=prompts, seed=seed)
    inputs = {"format": _FORMAT, **text, "cuts": cuts.digest, "tokenizer": tokenizer.digest}
    folder = store / digest_value(inputs)
    if is_finished(folder):
        say(f"{source.name}: found in {folder}")
    else:
        _make(Screen(source, prompts, cuts), tokenizer=tokenizer, seed=seed, inputs=inputs, folder=folder)
    return _open(folder)


def _make(screen: Screen, *, tokenizer: Tokenizer, seed: int, inputs: dict[str, Any], folder: Path) -> None:
    source = screen.source
    gathered = _Gathered()
    with new_folder(folder, kind="tokens", inputs=inputs, facts=gathered.facts) as work:
        with (
            (work / "documents.jsonl").open("w", encoding="utf-8") as log,
            (work / "rejects.jsonl").open("w", encoding="utf-8") as rejects,
            _watch(source) as advance,
        ):
            items = _report(read_source(source, seed=seed), advance)
            documents = _clean(items, screen, gathered=gathered, log=log, rejects=rejects)
            encoded = _count(tokenizer.encode_documents(documents), gathered)
            write_shards(encoded, work, vocabulary=tokenizer.vocabulary)
        if not gathered.tokens:
            _refuse_empty(source, gathered.ledger)
        for name, column in gathered.columns().items():
            np.save(work / f"{name}.npy", column, allow_pickle=False)


@contextmanager
def _watch(source: Source) -> Iterator[Callable[[float], None]]:
    megabytes = source_megabytes(source)
    if megabytes is None:
        say(f"{source.name}: read, clean, tokenise")
        yield lambda _: None
    else:
        with watch(source.name, megabytes, unit="MB of text") as advance:
            yield advance


def _report(items: Iterable[Document | Reject], advance: Callable[[float], None]) -> Iterator[Document | Reject]:
    for item in items:
        yield item
        advance((item.size_bytes if isinstance(item, Reject) else len(item.text.encode())) / 1e6)


def _clean(
    items: Iterable[Document | Reject], screen: Screen, *, gathered: _Gathered, log: TextIO, rejects: TextIO
) -> Iterator[Document]:
    """The documents that stay; every item leaves a line in ``log`` and its size in the ledger."""
    ledger = gathered.ledger
    for item in items:
        size = item.size_bytes if isinstance(item, Reject) else len(item.text.encode())
        ledger.read.add(bytes=size)
        screened = screen.judge(item) if isinstance(item, Document) else None
        kept = screened.outcome if screened else item
        if isinstance(kept, Reject):
            ledger.dropped[kept.reason].add(bytes=kept.size_bytes)
            if kept.reason == CONTAMINATED:
                gathered.contaminated[kept.why] += 1
            rejects.write(kept.to_line())
            log.write(_line(kept.id, screened, dropped=kept.reason))
            continue
        assert screened is not None
        gathered.take(kept, screened)
        cut_bytes = screened.whole_bytes - gathered.bytes[-1]
        ledger.trimmed_bytes += size - screened.whole_bytes
        if cut_bytes:
            ledger.dropped[REPEATED].add(documents=0, bytes=cut_bytes)
        log.write(
            _line(kept.id, screened, language=kept.language, cut_bytes=cut_bytes, text=kept.text[:_HEAD_CHARACTERS])
        )
        yield kept


def _line(id: str, screened: Screened | None, **facts: Any) -> str:
    """What is known of an item, as a line of JSON."""
    measures = screened.measures.to_json() if screened else None
    return json.dumps({"id": id, **facts, "measures": measures}, ensure_ascii=False) + "\n"


def _count(documents: Iterable[Encoded], gathered: _Gathered) -> Iterator[Encoded]:
    for tokens, mask in documents:
        gathered.tokens.append(len(tokens))
        yield tokens, mask


def _open(folder: Path) -> Tokenized:
    facts = read_manifest(folder)["facts"]
    columns = {
        name: np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("digests", "signatures", "whole_bytes", "bytes", "tokens", "language")
    }
    ledger = SourceLedger.from_json(facts["ledger"])
    return Tokenized(folder=folder, ledger=ledger, languages=tuple(facts["languages"]), **columns)


def read_documents(stored: Tokenized) -> list[dict[str, Any]]:
    """What is on record of each stored document, in order."""
    with (stored.folder / "documents.jsonl").open(encoding="utf-8") as file:
        return [entry for entry in map(json.loads, file) if "dropped" not in entry]


def _refuse_empty(source: Source, ledger: SourceLedger) -> None:
    reasons = ", ".join(f"{reason} {amount.documents:,}" for reason, amount in ledger.dropped.items())
    raise UserError(
        f"nothing of source {source.name} is left",
        where=f"source {source.name}, profile {_name_profile(source)}",
        why=f"all {ledger.read.documents:,} documents were dropped: {reasons}",
        fix="choose the profile that fits the text ({', '.join(PROFILES)}), or another text_key",
    )


def _name_profile(source: Source) -> str:
    if source.profile is None:
        return "by role and language"
    return source.profile if isinstance(source.profile, str) else f"like {source.profile.like}, changed"
