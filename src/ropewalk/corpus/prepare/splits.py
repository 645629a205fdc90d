"""Which of the stored documents are trained on, which are held out, and which are dropped as copies of others.

Copies are found across all sources at once, and of a group one stays (clusters.py). Held-out documents are chosen among
groups, not documents, so that none of them nearly equals one that is trained on, whether copies are dropped or kept.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Int64, UInt64

from ropewalk.core.record import Role
from ropewalk.core.seed import seed_for
from ropewalk.corpus.dedup.clusters import find_best, group_copies, group_equal, leak_threshold, rank_documents
from ropewalk.corpus.prepare.document_scores import Picked
from ropewalk.corpus.prepare.tokenized import Tokenized, read_documents

DROPPED, COLUMNS = "dropped.jsonl", "columns.json"
"""Files of a corpus folder, one of each a source: documents that were dropped, and best and worst by each score."""
TRAIN, HELD_OUT, EXACT, NEAR, UNFIT = 0, 1, 2, 3, 4
REASONS = {EXACT: "exact duplicate", NEAR: "near duplicate", UNFIT: "not selected"}
_FEWEST, _MOST_OF_FEW = 8, 0.1


@dataclass(frozen=True)
class Choice:
    """What became of one source's documents, and which document stayed for a copy."""

    fate: Int8[np.ndarray, "documents"]
    """TRAIN, HELD_OUT, EXACT, NEAR or UNFIT."""
    kept_source: Int64[np.ndarray, "documents"]
    kept_document: Int64[np.ndarray, "documents"]


def select_documents(
    sources: Sequence[Tokenized],
    roles: Sequence[Role],
    *,
    near_duplicates: Sequence[float | None],
    held_out: float,
    unfit: Sequence[Collection[int]] = (),
) -> list[Choice]:
    """What becomes of each document of each source.

    ``near_duplicates`` is for each source the similarity from which a document of it is dropped, wherever the one that
    stays comes from; None keeps all but exact copies. ``held_out`` is the share of each source's documents, at least 8
    of them or a tenth of what there is. ``unfit`` numbers those of each source that were not selected.
    """
    digests = np.concatenate([source.digests for source in sources])
    signatures = np.concatenate([source.signatures for source in sources])
    rank = rank_documents(roles, [source.whole_bytes for source in sources])
    exact = group_equal(digests)
    least = leak_threshold(near_duplicates)
    groups: dict[float | None, Int64[np.ndarray, _]] = {None: exact, least: group_copies(exact, signatures, least)}
    leak = groups[least]
    borders = np.cumsum([0, *(len(source.digests) for source in sources)])
    best = np.empty(len(digests), dtype=np.int64)
    for (first, last), threshold in zip(pairwise(borders.tolist()), near_duplicates, strict=True):
        if threshold is not None and threshold not in groups:
            groups[threshold] = group_copies(exact, signatures, threshold)
        best[first:last] = find_best(groups[threshold], rank)[first:last]
    best = _follow(best)
    fate = np.full(len(digests), TRAIN, dtype=np.int8)
    fate[best != np.arange(len(best))] = NEAR
    fate[find_best(exact, rank) != np.arange(len(best))] = EXACT

    for first, numbers in zip(borders.tolist(), unfit, strict=False):
        chosen_out = first + np.fromiter(numbers, dtype=np.int64)
        fate[chosen_out[fate[chosen_out] == TRAIN]] = UNFIT

    key = np.array([seed_for("held out", int(digest)) for digest in digests], dtype=np.uint64)[leak]
    chosen = np.zeros(len(fate), dtype=bool)
    for first, last in pairwise(borders.tolist()):
        kept = fate[first:last] == TRAIN
        chosen[first:last] = kept & (key[first:last] < _held_out_key(key[first:last][kept], held_out))
    fate[(fate == TRAIN) & np.isin(leak, leak[chosen])] = HELD_OUT
    home = np.searchsorted(borders, best, side="right") - 1
    columns = (np.split(column, borders[1:-1]) for column in (fate, home, best - borders[home]))
    return [Choice(*each) for each in zip(*columns, strict=True)]


def write_dropped(
    folder: Path,
    sources: Sequence[Tokenized],
    names: Sequence[str],
    choices: Sequence[Choice],
    picked: Sequence[Picked],
) -> None:
    """``NAME/dropped.jsonl`` in ``folder``: each stored document that is not used, and why; ``NAME/columns.json``."""
    known = [read_documents(source) for source in sources]
    for number, (name, choice) in enumerate(zip(names, choices, strict=True)):
        with (folder / name / DROPPED).open("w", encoding="utf-8") as file:
            for document in np.flatnonzero(choice.fate > HELD_OUT).tolist():
                home, kept = int(choice.kept_source[document]), int(choice.kept_document[document])
                alike = np.mean(sources[number].signatures[document] == sources[home].signatures[kept])
                why = f"{alike:.0%} like {known[home][kept]['id']} of {names[home]}, which stays"
                entry = {
                    "id": known[number][document]["id"],
                    "dropped": REASONS[int(choice.fate[document])],
                    "why": picked[number].why[document] if choice.fate[document] == UNFIT else why,
                    "place": "",
                    "bytes": int(sources[number].bytes[document]),
                    "text": known[number][document]["text"],
                }
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        if picked[number].examples:
            text = json.dumps(picked[number].examples, ensure_ascii=False, indent=1)
            (folder / name / COLUMNS).write_text(text + "\n", encoding="utf-8")


def _follow(best: Int64[np.ndarray, "documents"]) -> Int64[np.ndarray, "documents"]:
    """For each document the one that stays in the end: with two thresholds, a document's best may have its own best."""
    while (best[best] != best).any():
        best = best[best]
    return best


def _held_out_key(keys: UInt64[np.ndarray, "documents"], share: float) -> int:
    """The key from which a source's documents are trained on; those below are held out."""
    count = max(round(share * len(keys)), min(_FEWEST, int(_MOST_OF_FEW * len(keys)))) if share else 0
    return int(np.sort(keys)[count]) if count else 0
