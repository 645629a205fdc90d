"""Joins the finished shards of a source to its folder in the store."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.core.artifact import new_folder, read_manifest
from ropewalk.core.error import UserError
from ropewalk.core.record import Shard
from ropewalk.corpus.prepare.ledger import SourceLedger
from ropewalk.corpus.prepare.shards import Job
from ropewalk.corpus.prepare.tokenized import refuse_empty, settle_parts
from ropewalk.corpus.tokens.array_file import save_array
from ropewalk.corpus.tokens.store import join_shards, open_shards


def check_shards(job: Job) -> dict[str, Any]:
    """The facts of all shards together. Raises UserError if no document is left, and removes the shards first."""
    gathered = _add_facts([read_manifest(part)["facts"] for part in job.parts()])
    try:
        refuse_empty(job.source, SourceLedger.from_json(gathered["ledger"]))
    except UserError:  # a corrected source has another digest, so these shards are useless
        job.discard()
        raise
    return gathered


def assemble(job: Job) -> None:
    """Assemble the finished shards of a source in its folder of the store. Raises UserError if no document is left."""
    parts, gathered = job.parts(), check_shards(job)
    languages = settle_parts(parts)
    gathered["languages"] = sorted({language for own in languages for language in own})
    with new_folder(job.folder, kind="tokens", inputs=job.inputs, facts=lambda: gathered) as work_folder:
        join_shards(_open_parts(parts, job.tokenizer.vocabulary), work_folder, vocabulary=job.tokenizer.vocabulary)
        _join_columns(parts, languages, gathered["languages"], work_folder)
        for name in sorted({path.name for part in parts for path in part.glob("*.jsonl")}):
            with (work_folder / name).open("wb") as joined:
                for part in parts:
                    with (part / name).open("rb") as piece:
                        shutil.copyfileobj(piece, joined)


def _open_parts(parts: Sequence[Path], vocabulary: int) -> Iterator[Shard]:
    for part in parts:
        yield from open_shards(part, vocabulary=vocabulary, manifest={})


def _add_facts(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of all shards as those of one shard: ledgers and counts are summed, names are merged."""
    ledger = SourceLedger()
    added: dict[str, Any] = {}
    for entry in facts:
        ledger.take(SourceLedger.from_json(entry["ledger"]))
        for key, value in entry.items():
            if isinstance(value, dict) and key != "ledger":
                sums = added.setdefault(key, {})
                for name, count in value.items():
                    sums[name] = sums.get(name, 0) + count
    languages = sorted({language for entry in facts for language in entry["languages"]})
    return {**added, "ledger": ledger.to_json(), "languages": languages}


def _join_columns(parts: Sequence[Path], named: Sequence[Sequence[str]], names: Sequence[str], folder: Path) -> None:
    """Join the columns of all shards in order. ``named`` holds the language names that each shard numbers."""
    for column in sorted({path.name for part in parts for path in part.glob("*.npy")}):
        loaded = [np.load(part / column, mmap_mode="r", allow_pickle=False) for part in parts]
        kept = [(piece, own) for piece, own in zip(loaded, named, strict=True) if len(piece)]
        first, _ = kept[0]
        pieces = (
            np.array([names.index(name) for name in own], dtype=piece.dtype)[piece]
            if column == "language.npy"
            else piece
            for piece, own in kept
        )
        shape = (sum(len(piece) for piece, _ in kept), *first.shape[1:])
        save_array(folder / column, pieces, dtype=first.dtype, shape=shape)
