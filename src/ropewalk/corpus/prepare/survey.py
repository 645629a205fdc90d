"""The survey of a shard: the clean text of its documents, and all that the search for repeated sections compares.

Sections can be cut only after every document was cleaned. The clean text is kept on disk until then, so that no text is
read, cleaned and signed a second time. A survey is removed when its source is tokenised. Where it is missing, because
the search was made for another tokenizer, the text is cleaned again, with the same result.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from jaxtyping import Int64, UInt64

from ropewalk.core.owned import Owned
from ropewalk.core.read_json import parse_written
from ropewalk.core.record import Document
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.clean.quality import Measures
from ropewalk.corpus.prepare.filters import Filtered, Judged
from ropewalk.corpus.prepare.ledger import SourceLedger
from ropewalk.corpus.prepare.repeated_sections import find_pairs, is_searched
from ropewalk.corpus.prepare.short_pairs import find_short_pairs
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.language import blocks
from ropewalk.corpus.text.reject import Reject
from ropewalk.corpus.text.short_texts import group_short

_TEXTS, _ITEMS = "texts.zst", "items.jsonl"
_LEVEL = 1
_NO_PAIRS = (np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))


def write_survey(judged: Iterable[Judged], source: Source, *, ledger: SourceLedger, folder: Path) -> None:
    """Write into ``folder`` a line for each item, and of each kept document the text, the columns, the pairs of
    neighbouring units and the ends of units."""
    digests, signatures, whole_bytes, counts = [], [], [], []
    with (
        zstandard.open(folder / _TEXTS, "wb", cctx=zstandard.ZstdCompressor(level=_LEVEL)) as texts,
        (folder / _ITEMS).open("w", encoding="utf-8") as items,
        (folder / "pairs").open("wb") as pairs,
        (folder / "ends").open("wb") as ends,
    ):
        for group in group_short(judged, _count_characters):
            numbers, borders, own_counts = _find_pairs([each.outcome for each in group], source)
            pairs.write(numbers.astype("<u8").tobytes())
            ends.write(borders.astype("<i8").tobytes())
            counts += own_counts
            del numbers, borders
            for size, outcome, filtered in group:
                ledger.read.add(bytes=size)
                items.write(_to_line(size, outcome, filtered))
                if filtered is None or isinstance(outcome, Reject):
                    assert isinstance(outcome, Reject)
                    ledger.dropped[outcome.reason].add(bytes=size)
                    continue
                ledger.stored.add(bytes=filtered.whole_bytes)
                ledger.trimmed_bytes += size - filtered.whole_bytes
                for block in blocks(outcome.text):
                    texts.write(block.encode())
                digests.append(filtered.digest)
                signatures.append(filtered.signature)
                whole_bytes.append(filtered.whole_bytes)
            group.clear()
            del outcome, filtered
    np.save(folder / "digests.npy", np.array(digests, dtype=np.uint64))
    np.save(folder / "signatures.npy", np.array(signatures, dtype=np.uint32).reshape(-1, 128))
    np.save(folder / "whole_bytes.npy", np.array(whole_bytes, dtype=np.int64))
    np.save(folder / "counts.npy", np.array(counts, dtype=np.int64).reshape(-1, 2))


def _count_characters(judged: Judged) -> int:
    return 0 if isinstance(judged.outcome, Reject) else len(judged.outcome.text)


def _find_pairs(
    outcomes: Sequence[Document | Reject], source: Source
) -> tuple[UInt64[np.ndarray, "pairs"], Int64[np.ndarray, "units"], list[tuple[int, int]]]:
    """The pairs and the ends of units of some documents in order, and how many each of them has."""
    kept = [each for each in outcomes if isinstance(each, Document)]
    searched = [each.text for each in kept if is_searched(source) and each.loss_spans is None]
    if len(kept) > 1 and len(searched) == len(kept) and all(searched):
        numbers, borders, counts = find_short_pairs(searched)
        return numbers, borders, [(pairs, units) for pairs, units in counts.tolist()]
    found = [find_pairs(text) for text in searched]
    each_own = iter([(len(numbers), len(ends)) for numbers, ends in found])
    own_counts = [next(each_own) if is_searched(source) and each.loss_spans is None else (0, 0) for each in kept]
    found.append(_NO_PAIRS)
    return np.concatenate([numbers for numbers, _ in found]), np.concatenate([ends for _, ends in found]), own_counts


def read_survey(folder: Path, source: Source) -> Iterator[Judged]:
    """Yield what ``write_survey`` wrote, item by item: the same values as before."""
    signatures = np.load(folder / "signatures.npy", mmap_mode="r", allow_pickle=False)
    digests = np.load(folder / "digests.npy", allow_pickle=False).tolist()
    number = 0
    with zstandard.open(folder / _TEXTS, "rb") as texts, (folder / _ITEMS).open("rb") as items:
        for line in items:
            entry = parse_written(line)
            size = entry["read_bytes"]
            if entry["measures"] is None:
                yield Judged(size, Reject(**entry["reject"]), None)
                continue
            measures = Measures(**entry["measures"])
            if "reject" in entry:
                reject = Reject(**entry["reject"])
                yield Judged(size, reject, Filtered(reject, measures))
                continue
            content = Owned(texts.read(entry["whole_bytes"]))
            kept = Owned(_to_document(content.take(), entry, source))
            signature = np.array(signatures[number])
            passages = tuple(Reject(**each) for each in entry["passages"])
            rest = entry["whole_bytes"], digests[number], signature, passages, entry["scores"]
            yield _join(kept, size, measures, rest)
            number += 1


def _join(kept: Owned[Document], size: int, measures: Measures, rest: tuple[Any, ...]) -> Judged:
    document = kept.take()
    return Judged(size, document, Filtered(document, measures, *rest))


def _to_line(size: int, outcome: Document | Reject, filtered: Filtered | None) -> str:
    entry: dict[str, Any] = {"read_bytes": size, "measures": filtered and filtered.measures.to_whole_json()}
    if isinstance(outcome, Reject):
        entry["reject"] = asdict(outcome)
    else:
        assert filtered is not None
        entry |= {name: getattr(outcome, name) for name in ("id", "language", "loss_spans")}
        entry |= {"metadata": dict(outcome.metadata), "whole_bytes": filtered.whole_bytes}
        entry |= {"passages": [asdict(passage) for passage in filtered.passages], "scores": filtered.scores}
    return spell_json(entry, ensure_ascii=False) + "\n"


def _to_document(content: bytes, entry: dict[str, Any], source: Source) -> Document:
    """The document of a line. ``content`` is its text in UTF-8."""
    spans = entry["loss_spans"]
    return Document(
        text=content.decode(),
        source=source.name,
        role=source.role,
        language=entry["language"],
        id=entry["id"],
        loss_spans=None if spans is None else tuple((start, end) for start, end in spans),
        metadata=entry["metadata"],
    )
