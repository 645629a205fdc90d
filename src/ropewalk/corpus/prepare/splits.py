"""Assigns a split to each stored document: trained on, held out, or dropped as a copy of another document.

Copies are searched for across all sources at once, and one document of a group is kept (clusters.py). Held-out
documents are selected by groups, so none of them is a near duplicate of a training document, whether copies are dropped
or kept. All columns are files, so memory does not grow with the number of documents.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Int64

from ropewalk.core.record import Role
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.dedup.clusters import leak_threshold
from ropewalk.corpus.dedup.copies_on_disk import Copies, SignatureFiles
from ropewalk.corpus.dedup.external_sort import Column, chunks, follow
from ropewalk.corpus.dedup.rank_selected import rank_selected
from ropewalk.corpus.join.places import Places
from ropewalk.corpus.prepare.document_records import DocumentRecords
from ropewalk.corpus.prepare.document_scores import Picked
from ropewalk.corpus.prepare.hold_out_documents import HELD_OUT, TRAIN, hold_out
from ropewalk.corpus.prepare.tokenized import Tokenized

DROPPED, COLUMNS = "dropped.jsonl", "columns.json"
"""Files of a corpus folder, one each per source: the dropped documents, and the columns of scores with examples."""
EXACT, NEAR, UNFIT = 2, 3, 4
REASONS = {EXACT: "exact duplicate", NEAR: "near duplicate", UNFIT: "not selected"}


@dataclass(frozen=True)
class DocumentSplits:
    """The split of each document of one source, and for a copy the document that was kept.

    The columns are of all sources; ``first`` to before ``last`` are this source's documents. An array is mapped from
    disk anew, so that its pages are freed with it.
    """

    columns: tuple[Column, Column, Column]
    first: int
    last: int

    @property
    def split(self) -> Int8[np.ndarray, "documents"]:
        """TRAIN, HELD_OUT, EXACT, NEAR or UNFIT."""
        return self.columns[0].open()[self.first : self.last]

    @property
    def kept_source(self) -> Int64[np.ndarray, "documents"]:
        """Number of the source of the document that was kept; the own one where the document is no copy."""
        return self.columns[1].open()[self.first : self.last]

    @property
    def kept_document(self) -> Int64[np.ndarray, "documents"]:
        """Number of the document that was kept, in its source."""
        return self.columns[2].open()[self.first : self.last]


def select_documents(
    sources: Sequence[Tokenized],
    roles: Sequence[Role],
    *,
    near_duplicates: Sequence[float | None],
    held_out: float,
    picked: Sequence[Picked] = (),
    places: Sequence[Places | None] = (),
    scratch: Path,
) -> list[DocumentSplits]:
    """The split of each document of each source.

    ``near_duplicates`` holds for each source the least similarity at which a document is dropped, whichever source the
    kept one is from. None drops only exact copies. ``held_out`` is the share of the documents of each source, at least
    8 documents or a tenth of them. ``picked`` holds for each source which of its documents its rules leave out; a copy
    of one of them stays in another source that does not. Where ``places`` says that documents are joined, they are held
    out together, and joined documents are counted. ``scratch`` is an empty folder; the result is mapped from files in
    it.
    """
    copies = Copies([(role, source.folder) for role, source in zip(roles, sources, strict=True)], scratch)
    leak = copies.group(leak_threshold(near_duplicates))
    groups = _group_sources(copies, leak, near_duplicates)
    if picked:
        rank_selected(copies, groups, [each.left_out for each in picked])
    best = _find_kept(copies, groups)
    equal_best = copies.find_best(copies.equal, "equal")
    splits = Column(scratch / "split", copies.documents, np.int8)
    for first, last in splits.chunks():
        own, split = np.arange(first, last), np.full(last - first, TRAIN, dtype=np.int8)
        split[best.read(first, last) != own] = NEAR
        split[equal_best.read(first, last) != own] = EXACT
        splits.write(first, split)
    for first, each in zip(copies.borders, picked, strict=False):
        split = splits.open()
        split[first + each.unfit] = UNFIT  # a copy too: its own source leaves it out, whichever copy stays
        del split
    hold_out(copies, sources, leak, splits, share=held_out, places=places)
    home, kept = Column(scratch / "home", copies.documents), Column(scratch / "kept", copies.documents)
    borders = np.array(copies.borders)
    for first, last in best.chunks():
        chosen = best.read(first, last)
        at = np.searchsorted(borders, chosen, side="right") - 1
        home.write(first, at)
        kept.write(first, chosen - borders[at])
    return [DocumentSplits((splits, home, kept), first, last) for first, last in pairwise(copies.borders)]


def _group_sources(copies: Copies, leak: Column, near_duplicates: Sequence[float | None]) -> list[Column]:
    """For each source the column of the groups of copies by its own similarity. Equal similarities share a column."""
    groups: dict[float | None, Column] = {leak_threshold(near_duplicates): leak, None: copies.equal}
    for threshold in near_duplicates:
        if threshold is not None and threshold not in groups:
            groups[threshold] = copies.group(threshold)
    return [groups[threshold] for threshold in near_duplicates]


def _find_kept(copies: Copies, groups: Sequence[Column]) -> Column:
    """For each document the one that is kept of its copies, by the groups of its own source."""
    found = {group: copies.find_best(group, f"for-{at}") for at, group in enumerate(dict.fromkeys(groups))}
    best = Column(copies.scratch / "best", copies.documents)
    for (first, last), group in zip(pairwise(copies.borders), groups, strict=True):
        for start, end in chunks(first, last):
            best.write(start, found[group].read(start, end))
    follow(best)  # with two thresholds, a document's best may have a better one itself
    return best


def write_dropped(
    folder: Path,
    sources: Sequence[Tokenized],
    names: Sequence[str],
    choices: Sequence[DocumentSplits],
    picked: Sequence[Picked],
    records: Sequence[DocumentRecords],
) -> None:
    """Write ``NAME/dropped.jsonl`` (each unused document with the reason) and ``NAME/columns.json`` (the distribution
    of each score, with examples) into ``folder``."""
    borders = [choices[0].first, *(choice.last for choice in choices)]
    for number, (name, choice) in enumerate(zip(names, choices, strict=True)):
        with (
            (folder / name / DROPPED).open("w", encoding="utf-8") as file,
            closing(SignatureFiles([source.folder for source in sources], borders)) as signatures,
        ):
            split, sizes = choice.split, sources[number].bytes
            homes, kept_documents = choice.kept_source, choice.kept_document
            for document, record in records[number].read_some(split > HELD_OUT):
                if split[document] == UNFIT:
                    why = picked[number].explain(document)
                else:
                    home, kept = int(homes[document]), int(kept_documents[document])
                    own, other = signatures.read(borders[number] + document), signatures.read(borders[home] + kept)
                    why = f"{np.mean(own == other):.0%} like {records[home].read(kept)['id']} of {names[home]}, "
                    # Its source leaves the best copy out where no other source is known to leave one in.
                    (its_split,) = choice.columns[0].read(borders[home] + kept, borders[home] + kept + 1).tolist()
                    why += "which is not selected" if its_split == UNFIT else "which is kept"
                entry = {
                    "id": record["id"],
                    "dropped": REASONS[int(split[document])],
                    "why": why,
                    "place": "",
                    "bytes": int(sizes[document]),
                    "text": record["text"],
                }
                file.write(spell_json(entry, ensure_ascii=False) + "\n")
        if picked[number].columns:
            text = spell_json(picked[number].columns, ensure_ascii=False, indent=1)
            (folder / name / COLUMNS).write_text(text + "\n", encoding="utf-8")
