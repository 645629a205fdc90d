"""A corpus as a folder: which documents of the token stores are trained on, which are held out, and the ledger.

``corpus.json`` names the sources and their stores. ``NAME/train.npy`` holds the numbers of the stored documents that
are trained on, and for a source with joins ``NAME/pieces.npy`` how they are joined. ``NAME/held_out/`` holds the tokens
of the held-out documents. ``ledger.json`` counts all other documents. The tokens that are trained on stay in the store.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64, Shaped

from ropewalk.core.artifact import find_damage, is_finished, read_manifest
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.read_json import read_written, read_written_lines
from ropewalk.core.record import Role, Shard
from ropewalk.core.run_folder import CORPUS_CONTENT, LEDGER
from ropewalk.corpus.spec import LongDocuments
from ropewalk.corpus.text.reject import is_stored
from ropewalk.corpus.tokens.joined_documents import Attend, open_joined
from ropewalk.corpus.tokens.long_documents import BeyondSequence, find_beyond
from ropewalk.corpus.tokens.store import StoredDocuments, all_documents, open_shards

KIND = "corpus"
_SPLIT = "split.npy"


@dataclass(frozen=True, slots=True)
class Facts:
    """The figures of a source. ``languages`` counts its documents by language."""

    role: Role
    documents: int
    tokens: int
    held_out_documents: int
    held_out_tokens: int
    languages: Mapping[str, int]
    license: str | None

    @property
    def language(self) -> str:
        """The language of most documents."""
        return max(self.languages, key=lambda name: self.languages[name], default="unknown")


@dataclass(frozen=True)
class Corpus:
    """An opened corpus folder.

    ``digest`` names its content: the tokens, their documents and their sources. ``tokenizer`` is the digest of the
    tokenizer that made the ids. It is None where the folder does not name one (the folder was made by hand).
    """

    folder: Path
    digest: str
    tokenizer: str | None
    vocabulary: int
    eos_id: int
    long_documents: Mapping[str, LongDocuments]
    """For each source: how a document longer than a sequence is treated."""
    ledger: Mapping[str, Any]
    _facts: Mapping[str, Facts]
    _stores: Mapping[str, Path]
    _attend: Mapping[str, Attend]
    """For each source with joined documents: what is one document to the attention mask."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the order of the recipe."""
        return tuple(self._facts)

    def facts(self, source: str) -> Facts:
        return self._facts[source]

    def store(self, source: str) -> Path:
        """The source's folder in the token store."""
        return self._stores[source]

    def require_current(self) -> None:
        """Raise UserError for a folder of version 0.1, whose split of all documents has another name and form.

        It can be trained on; what looks at dropped and held-out documents needs it prepared again.
        """
        for source in self.sources:
            path = self.folder / source / _SPLIT
            if not path.is_file():
                raise UserError(
                    "the corpus was prepared by an earlier version",
                    where=str(path),
                    why=f"there is no {_SPLIT}, which says what became of each document",
                    fix=f"remove {self.folder} and run `ropewalk prepare RECIPE` again; the token store keeps the "
                    "tokenised text",
                )

    def train(self, source: str) -> StoredDocuments:
        """The documents that are trained on, joined ones included, from the source's shards in the token store."""
        described = self._describe(source)
        shards = tuple(
            open_shards(self._stores[source], vocabulary=self.vocabulary, manifest=described, scattered=True)
        )
        if source in self._attend:
            return open_joined(self.folder / source, shards, vocabulary=self.vocabulary, attend=self._attend[source])
        return StoredDocuments(shards, np.load(self.folder / source / "train.npy", allow_pickle=False))

    def find_beyond(self, source: str, context_tokens: int) -> BeyondSequence:
        """Count the documents and tokens of a source that are not read in sequences of ``context_tokens`` tokens."""
        long_documents = self.long_documents[source]
        return find_beyond(self.train(source), context_tokens=context_tokens, long_documents=long_documents)

    def stored(self, source: str) -> StoredDocuments:
        """All documents of the source's token store, including the dropped and the held-out ones."""
        return all_documents(open_shards(self._stores[source], vocabulary=self.vocabulary, manifest={}))

    def splits(self, source: str) -> Int8[np.ndarray, "documents"]:
        """The split of each stored document: train, held out or a reason to drop it (codes in prepare/splits.py)."""
        return np.asarray(np.load(self.folder / source / _SPLIT, allow_pickle=False))

    def kept(self, source: str, document: int) -> tuple[str, int]:
        """For a stored document that is dropped as a copy: source and number of the document that was kept."""
        home, number = np.load(self.folder / source / "kept.npy", mmap_mode="r", allow_pickle=False)[document].tolist()
        return self.sources[home], number

    def column(self, source: str, name: str) -> Shaped[np.ndarray, "documents ..."]:
        """One column over the stored documents: ``digests``, ``signatures``, ``bytes``, ``tokens`` or ``language``."""
        return np.asarray(np.load(self._stores[source] / f"{name}.npy", mmap_mode="r", allow_pickle=False))

    def language_names(self, source: str) -> tuple[str, ...]:
        """The language names; the column ``language`` holds indices into them."""
        return tuple(read_manifest(self._stores[source])["facts"]["languages"])

    def ids(self, source: str, documents: Collection[int]) -> dict[int, str]:
        """The ids of some stored documents as in the source text, by document number.

        Lines of others are not parsed, and none is read behind the last one: there may be ten million.
        """
        numbers, wanted = count(), {*documents}
        lines = read_written_lines(
            self._stores[source] / "documents.jsonl",
            dict,
            appended=False,
            wanted=lambda line: is_stored(line) and next(numbers) in wanted,
        )
        return {number: str(entry["id"]) for number, entry in zip(sorted(wanted), lines, strict=False)}

    def languages(self, source: str) -> tuple[tuple[str, ...], Int64[np.ndarray, "documents"]]:
        """Language names, and for each document that is trained on the index of its language among them."""
        return self.language_names(source), self.column(source, "language")[self.train(source).chosen]

    def held_out(self, source: str) -> list[Shard]:
        """The held-out documents, as separate shards. None of them is a near duplicate of a training document."""
        folder = self.folder / source / "held_out"
        return open_shards(folder, vocabulary=self.vocabulary, manifest=self._describe(source))

    def _describe(self, source: str) -> dict[str, Any]:
        facts = self._facts[source]
        return {"source": source, "language": facts.language, **asdict(facts)}


def open_corpus(folder: Path) -> Corpus:
    """Open a corpus folder.

    Raises UserError where the folder, or a token store that it points to, is not as it was built.
    """
    if not is_finished(folder):
        raise UserError(
            "the corpus is not built",
            where=str(folder),
            why="the folder is missing or unfinished",
            fix="run `ropewalk prepare RECIPE`",
        )
    manifest = read_manifest(folder)
    if (kind := manifest["kind"]) != KIND:
        raise UserError("this is not a corpus", where=str(folder), why=f"it is a {kind}", fix="name a corpus folder")
    if fault := find_damage(folder):  # indices and held-out tokens only: takes seconds at most
        raise UserError(
            "the corpus folder is damaged",
            where=str(folder),
            why=fault,
            fix="remove it and run `ropewalk prepare RECIPE` again; the token store keeps the tokenised text",
        )
    content: dict[str, Any] = read_written(folder / CORPUS_CONTENT)
    stores = {name: _find_store(folder, name, entry) for name, entry in content["sources"].items()}
    return Corpus(
        folder=folder,
        digest=content["digest"],
        tokenizer=manifest["inputs"].get("tokenizer"),
        vocabulary=content["vocabulary"],
        eos_id=content["eos_id"],
        long_documents={
            name: entry.get("long_documents", content["long_documents"]) for name, entry in content["sources"].items()
        },
        ledger=read_written(folder / LEDGER),
        _facts={name: Facts(**entry["facts"]) for name, entry in content["sources"].items()},
        _stores=stores,
        _attend={name: entry["attend"] for name, entry in content["sources"].items() if "attend" in entry},
    )


def content_digest(folder: Path) -> str:
    """A digest of the content of a finished folder, made of the digests in its manifest."""
    return digest_value(read_manifest(folder)["files"])


def token_digest(store: Path) -> str:
    """A digest of the tokens and languages of a token store, independent of the path and name of the source text."""
    manifest = read_manifest(store)
    files = {n: entry for n, entry in manifest["files"].items() if n.startswith("shard-") or n == "language.npy"}
    return digest_value([files, manifest["facts"]["languages"]])


def point_to(store: Path, *, from_folder: Path) -> str:
    """The relative path from a corpus folder to a token store, so that both can be moved together."""
    return os.path.relpath(store.resolve(), from_folder.resolve())


def _find_store(folder: Path, name: str, entry: Mapping[str, Any]) -> Path:
    store = (folder.resolve() / str(entry["store"])).resolve()
    if not is_finished(store) or content_digest(store) != entry["store_digest"]:
        state = "is gone" if not is_finished(store) else "has changed since the corpus was built"
        raise UserError(
            f"the token store of source {name} {state}",
            where=str(store),
            why=f"{folder} refers to it",
            fix=f"remove {folder} and run `ropewalk prepare RECIPE` again",
        )
    return store
