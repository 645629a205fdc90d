"""A corpus as a folder: which documents of which token stores are trained on, which are held out, and the ledger.

``corpus.json`` names the sources and their stores; ``NAME/train.npy`` numbers a store's documents that are trained on;
``NAME/held_out/`` holds the others' tokens; ``ledger.json`` says where everything else went. Tokens stay in the store.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64, Shaped

from ropewalk.core.artifact import find_damage, is_finished, read_manifest
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.read_json import read_written_lines
from ropewalk.core.record import Role, Shard
from ropewalk.corpus.spec import LongDocuments
from ropewalk.corpus.tokens.long_documents import BeyondRow, find_beyond
from ropewalk.corpus.tokens.store import Documents, all_documents, open_shards

KIND = "corpus"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a source amounts to. ``languages`` counts its documents by language."""

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
    """A corpus folder, opened. ``digest`` names its content: which tokens, in which documents, of which sources.

    ``tokenizer`` is the digest of what made the ids; None where the folder does not tell (it was made by hand).
    """

    folder: Path
    digest: str
    tokenizer: str | None
    vocabulary: int
    eos_id: int
    long_documents: Mapping[str, LongDocuments]
    """Of each source: what happens to a document that is longer than a row."""
    ledger: Mapping[str, Any]
    _facts: Mapping[str, Facts]
    _stores: Mapping[str, Path]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names, in the recipe's order."""
        return tuple(self._facts)

    def facts(self, source: str) -> Facts:
        return self._facts[source]

    def store(self, source: str) -> Path:
        """The source's folder in the token store."""
        return self._stores[source]

    def train(self, source: str) -> Documents:
        """The documents that are trained on, out of the source's shards in the token store."""
        shards = open_shards(self._stores[source], vocabulary=self.vocabulary, manifest=self._describe(source))
        return Documents(tuple(shards), np.load(self.folder / source / "train.npy", allow_pickle=False))

    def find_beyond(self, source: str, context_tokens: int) -> BeyondRow:
        """What of a source's documents is longer than a row of ``context_tokens`` and not read."""
        long_documents = self.long_documents[source]
        return find_beyond(self.train(source), context_tokens=context_tokens, long_documents=long_documents)

    def stored(self, source: str) -> Documents:
        """All documents of the source's token store, also those that are dropped or held out."""
        return all_documents(open_shards(self._stores[source], vocabulary=self.vocabulary, manifest={}))

    def fates(self, source: str) -> Int8[np.ndarray, "documents"]:
        """What became of each stored document, as select numbers it."""
        return np.asarray(np.load(self.folder / source / "fate.npy", allow_pickle=False))

    def kept(self, source: str, document: int) -> tuple[str, int]:
        """Source and number of what stayed for a stored document that is dropped as a copy."""
        home, number = np.load(self.folder / source / "kept.npy", mmap_mode="r", allow_pickle=False)[document].tolist()
        return self.sources[home], number

    def column(self, source: str, name: str) -> Shaped[np.ndarray, "documents ..."]:
        """What the store knows of each document: ``digests``, ``signatures``, ``bytes``, ``tokens``, ``language``."""
        return np.asarray(np.load(self._stores[source] / f"{name}.npy", mmap_mode="r", allow_pickle=False))

    def language_names(self, source: str) -> tuple[str, ...]:
        """What the numbers of the column ``language`` mean."""
        return tuple(read_manifest(self._stores[source])["facts"]["languages"])

    def ids(self, source: str, documents: Collection[int]) -> dict[int, str]:
        """What the text called some stored documents, by their number."""
        found, number = {}, 0
        for entry in read_written_lines(self._stores[source] / "documents.jsonl", dict):
            if "dropped" not in entry:
                if number in documents:
                    found[number] = str(entry["id"])
                number += 1
        return found

    def languages(self, source: str) -> tuple[tuple[str, ...], Int64[np.ndarray, "documents"]]:
        """Names of languages, and for each document that is trained on the number of its own among them."""
        return self.language_names(source), self.column(source, "language")[self.train(source).chosen]

    def held_out(self, source: str) -> list[Shard]:
        """The documents that are not, as shards of their own; none of them nearly equals one that is trained on."""
        folder = self.folder / source / "held_out"
        return open_shards(folder, vocabulary=self.vocabulary, manifest=self._describe(source))

    def _describe(self, source: str) -> dict[str, Any]:
        facts = self._facts[source]
        return {"source": source, "language": facts.language, **asdict(facts)}


def open_corpus(folder: Path) -> Corpus:
    """Open a corpus folder; raise UserError if it, or a token store that it points into, is not what was built."""
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
    if fault := find_damage(folder):  # indices and held-out tokens: seconds at most
        raise UserError(
            "the corpus folder is damaged",
            where=str(folder),
            why=fault,
            fix="remove it and run `ropewalk prepare RECIPE` again; the token store keeps what costs time",
        )
    content = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
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
        ledger=json.loads((folder / "ledger.json").read_text(encoding="utf-8")),
        _facts={name: Facts(**entry["facts"]) for name, entry in content["sources"].items()},
        _stores=stores,
    )


def content_digest(folder: Path) -> str:
    """Names what a finished folder holds, by the digests in its manifest."""
    return digest_value(read_manifest(folder)["files"])


def token_digest(store: Path) -> str:
    """Names the tokens and languages of a token store's documents, wherever their text lay, whatever it is called."""
    manifest = read_manifest(store)
    files = {n: entry for n, entry in manifest["files"].items() if n.startswith("shard-") or n == "language.npy"}
    return digest_value([files, manifest["facts"]["languages"]])


def point_to(store: Path, *, from_folder: Path) -> str:
    """The way from a corpus folder to a token store, so that both can move together."""
    return os.path.relpath(store.resolve(), from_folder.resolve())


def _find_store(folder: Path, name: str, entry: Mapping[str, Any]) -> Path:
    store = (folder.resolve() / str(entry["store"])).resolve()
    if not is_finished(store) or content_digest(store) != entry["store_digest"]:
        state = "is gone" if not is_finished(store) else "holds other text than when the corpus was built"
        raise UserError(
            f"the token store of source {name} {state}",
            where=str(store),
            why=f"{folder} points into it",
            fix=f"remove {folder} and run `ropewalk prepare RECIPE` again",
        )
    return store
