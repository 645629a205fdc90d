"""Which of the stored documents are trained on, which are held out, and which are dropped as copies of others.

Copies are found across all sources at once, and of a group one stays (copies.py). Held-out documents are chosen among
groups, not documents, so that none of them nearly equals one that is trained on, whether copies are dropped or kept.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64, UInt64

from ropewalk.core.record import Role
from ropewalk.core.seed import seed_for
from ropewalk.corpus.copies import SIMILAR, find_best, group_copies, group_equal, leak_threshold, rank_documents
from ropewalk.corpus.inspect import DUPLICATES
from ropewalk.corpus.tokenized import Tokenized

TRAIN, HELD_OUT, EXACT, NEAR = 0, 1, 2, 3
REASONS = {EXACT: "exact duplicate", NEAR: "near duplicate"}
_FEWEST, _MOST_OF_FEW = 8, 0.1


@dataclass(frozen=True)
class Choice:
    """What became of one source's documents, and for a dropped copy which document of which source stayed for it."""

    fate: Int8[np.ndarray, "documents"]
    """TRAIN, HELD_OUT, EXACT or NEAR."""
    kept_source: Int64[np.ndarray, "documents"]
    kept_document: Int64[np.ndarray, "documents"]


def select_documents(
    sources: Sequence[Tokenized], roles: Sequence[Role], *, near_duplicates: float | None, held_out: float
) -> list[Choice]:
    """What becomes of each document of each source.

    ``near_duplicates`` is the similarity from which copies are dropped; None keeps all but exact ones. ``held_out`` is
    the share of each source's documents, at least 8 of them or a tenth of what there is.
    """
    digests = np.concatenate([source.digests for source in sources])
    signatures = np.concatenate([source.signatures for source in sources])
    rank = rank_documents(roles, [source.whole_bytes for source in sources])
    exact = group_equal(digests)
    leak = group_copies(exact, signatures, leak_threshold(near_duplicates))
    near = exact
    if near_duplicates is not None:
        near = leak if near_duplicates <= SIMILAR else group_copies(exact, signatures, near_duplicates)
    fate = np.full(len(digests), TRAIN, dtype=np.int8)
    best = find_best(near, rank)
    fate[best != np.arange(len(best))] = NEAR
    fate[find_best(exact, rank) != np.arange(len(best))] = EXACT

    key = np.array([seed_for("held out", int(digest)) for digest in digests], dtype=np.uint64)[leak]
    chosen = np.zeros(len(fate), dtype=bool)
    borders = np.cumsum([0, *(len(source.digests) for source in sources)])
    for first, last in pairwise(borders.tolist()):
        kept = fate[first:last] == TRAIN
        chosen[first:last] = kept & (key[first:last] < _held_out_key(key[first:last][kept], held_out))
    fate[(fate == TRAIN) & np.isin(leak, leak[chosen])] = HELD_OUT
    home = np.searchsorted(borders, best, side="right") - 1
    columns = (np.split(column, borders[1:-1]) for column in (fate, home, best - borders[home]))
    return [Choice(*each) for each in zip(*columns, strict=True)]


def write_duplicates(
    folder: Path, sources: Sequence[Tokenized], names: Sequence[str], choices: Sequence[Choice]
) -> None:
    """``NAME/duplicates.jsonl`` in ``folder``: each dropped copy, what stayed for it, and how alike they are."""
    known = [_read_documents(source) for source in sources]
    for number, (name, choice) in enumerate(zip(names, choices, strict=True)):
        with (folder / name / DUPLICATES).open("w", encoding="utf-8") as file:
            for document in np.flatnonzero(choice.fate > HELD_OUT).tolist():
                home, kept = int(choice.kept_source[document]), int(choice.kept_document[document])
                alike = np.mean(sources[number].signatures[document] == sources[home].signatures[kept])
                entry = {
                    "id": known[number][document]["id"],
                    "dropped": REASONS[int(choice.fate[document])],
                    "why": f"{alike:.0%} like {known[home][kept]['id']} of {names[home]}, which stays",
                    "place": "",
                    "bytes": int(sources[number].bytes[document]),
                    "text": known[number][document]["text"],
                }
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _read_documents(source: Tokenized) -> list[dict[str, Any]]:
    """What is on record of each stored document, in order."""
    with (source.folder / "documents.jsonl").open(encoding="utf-8") as file:
        return [entry for entry in map(json.loads, file) if "dropped" not in entry]


def _held_out_key(keys: UInt64[np.ndarray, "documents"], share: float) -> int:
    """The key from which a source's documents are trained on; those below are held out."""
    count = max(round(share * len(keys)), min(_FEWEST, int(_MOST_OF_FEW * len(keys)))) if share else 0
    return int(np.sort(keys)[count]) if count else 0
