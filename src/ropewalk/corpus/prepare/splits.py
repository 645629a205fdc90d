"""Assigns a split to each stored document: trained on, held out, or dropped as a copy of another document.

Copies are searched for across all sources at once, and one document of a group is kept (clusters.py). Held-out
documents are selected by groups, so none of them is a near duplicate of a training document, whether copies are dropped
or kept.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Int64, UInt64

from ropewalk.core.record import Role
from ropewalk.core.seed import seed_for
from ropewalk.corpus.dedup.clusters import find_best, group_copies, group_equal, leak_threshold, rank_documents
from ropewalk.corpus.join.hold_out import hold_together, number_groups
from ropewalk.corpus.join.places import Places
from ropewalk.corpus.prepare.document_scores import Picked
from ropewalk.corpus.prepare.tokenized import Tokenized, read_documents

DROPPED, COLUMNS = "dropped.jsonl", "columns.json"
"""Files of a corpus folder, one each per source: the dropped documents, and the best and worst by each score."""
TRAIN, HELD_OUT, EXACT, NEAR, UNFIT = 0, 1, 2, 3, 4
REASONS = {EXACT: "exact duplicate", NEAR: "near duplicate", UNFIT: "not selected"}
_FEWEST, _MOST_OF_FEW = 8, 0.1


@dataclass(frozen=True)
class DocumentSplits:
    """The split of each document of one source, and for a copy the document that was kept."""

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
    places: Sequence[Places | None] = (),
) -> list[DocumentSplits]:
    """The split of each document of each source.

    ``near_duplicates`` holds for each source the least similarity at which a document is dropped, whichever source the
    kept one is from. None drops only exact copies. ``held_out`` is the share of the documents of each source, at least
    8 documents or a tenth of them. ``unfit`` holds the document numbers of each source that were not selected. Where
    ``places`` says that documents are joined, they are held out together, and joined documents are counted.
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
    if any(each is not None for each in places):
        leak, key = hold_together(leak, key, digests, number_groups(places, borders, fate == TRAIN))
    chosen = np.zeros(len(fate), dtype=bool)
    for (first, last), place in zip_longest(pairwise(borders.tolist()), places):
        kept = fate[first:last] == TRAIN
        keys = key[first:last][kept]
        chosen[first:last] = kept & (
            key[first:last] < _held_out_key(keys if place is None else np.unique(keys), held_out)
        )
    fate[(fate == TRAIN) & np.isin(leak, leak[chosen])] = HELD_OUT
    home = np.searchsorted(borders, best, side="right") - 1
    columns = (np.split(column, borders[1:-1]) for column in (fate, home, best - borders[home]))
    return [DocumentSplits(*each) for each in zip(*columns, strict=True)]


def write_dropped(
    folder: Path,
    sources: Sequence[Tokenized],
    names: Sequence[str],
    choices: Sequence[DocumentSplits],
    picked: Sequence[Picked],
) -> None:
    """Write ``NAME/dropped.jsonl`` (each unused document with the reason) and ``NAME/columns.json`` into ``folder``."""
    known = [read_documents(source) for source in sources]
    for number, (name, choice) in enumerate(zip(names, choices, strict=True)):
        with (folder / name / DROPPED).open("w", encoding="utf-8") as file:
            for document in np.flatnonzero(choice.fate > HELD_OUT).tolist():
                home, kept = int(choice.kept_source[document]), int(choice.kept_document[document])
                alike = np.mean(sources[number].signatures[document] == sources[home].signatures[kept])
                why = f"{alike:.0%} like {known[home][kept]['id']} of {names[home]}, which is kept"
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
    """The finally kept document of each one. With two thresholds, a document's best may have a better one itself."""
    while (best[best] != best).any():
        best = best[best]
    return best


def _held_out_key(keys: UInt64[np.ndarray, "documents"], share: float) -> int:
    """The least key of the training documents of a source. Documents with a smaller key are held out."""
    count = max(round(share * len(keys)), min(_FEWEST, int(_MOST_OF_FEW * len(keys)))) if share else 0
    return int(np.sort(keys)[count]) if count else 0
