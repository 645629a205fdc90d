"""Writes the joined documents of a source: a table of pieces of the store, and the few tokens between them.

A joined document is [BOS] header text separator header text ... EOS. The borders that its parts had as documents of
their own are left out, and counted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from ropewalk.corpus.tokens.joined_documents import ADDED, PIECES
from ropewalk.corpus.tokens.store import write_shards
from ropewalk.corpus.tokens.tokenizer import Tokenizer

_CHUNK_PARTS = 1 << 14
"""Parts whose rows are made at a time: six rows each, of which most are left out again."""


@dataclass(frozen=True, slots=True)
class JoinLedger:
    """The amounts of a source's joins: tokens in = tokens out - added + borders + recoded."""

    parts: int
    """Stored documents that were joined."""
    alone: int
    """Of them those that are a document by themselves."""
    documents: int
    """Documents that they make."""
    continued: int
    """Of them those that continue one that would be longer than ``most_tokens``."""
    tokens_in: int
    border_tokens: int
    """BOS and EOS between parts, which are left out."""
    recoded_tokens: int = 0
    """Tokens around a cut within a word, whose two sides were encoded again; they are counted as added."""
    cut: int = 0
    """Texts that stand in several chunks, with chunks of other texts between them."""
    filled: int = 0
    """Parts whose middle stands at the end."""
    tasks: int = 0
    """Tasks that were put behind documents."""
    task_tokens: int = 0
    """Their tokens, which are part of the added ones."""
    tokens_out: int = 0
    added_tokens: int = 0
    """Tokens that are not from the store: headers, separators, sentinels, tasks."""

    def to_json(self) -> dict[str, int]:
        return asdict(self)


class Added(NamedTuple):
    """Tokens that are not from the store, and whether they are trained on."""

    ids: Int64[np.ndarray, "_"]
    trained: bool


@dataclass(frozen=True)
class PieceTable:
    """Documents made of pieces. ``added`` are numbered from ``stored`` on, which is the number of stored documents."""

    rows: Int64[np.ndarray, "pieces 5"]
    """Joined document, number, begin, end, opens."""
    added: tuple[Added, ...]
    stored: int
    ledger: JoinLedger

    def save(self, folder: Path, *, vocabulary: int) -> JoinLedger:
        """Write the table and the added tokens. Returns the ledger, which balances: no token is lost or read twice."""
        lengths = self.rows[:, 3] - self.rows[:, 2]
        out, added = int(lengths.sum()), int(lengths[self.rows[:, 1] >= self.stored].sum())
        ledger = replace(self.ledger, tokens_out=out, added_tokens=added)
        assert ledger.tokens_in == out - added + ledger.border_tokens + ledger.recoded_tokens
        np.save(folder / PIECES, self.rows, allow_pickle=False)
        (folder / ADDED).mkdir()
        if any(len(each.ids) for each in self.added):
            masked = ((each.ids, np.full(len(each.ids), each.trained, dtype=np.uint8)) for each in self.added)
            write_shards(masked, folder / ADDED, vocabulary=vocabulary)
        return ledger


@dataclass(frozen=True)
class PartOrder:
    """Documents in the order in which they are joined. ``opens`` marks the first part of each joined document."""

    documents: Int64[np.ndarray, "parts"]
    opens: Bool[np.ndarray, "parts"]
    continued: int
    spans: Int64[np.ndarray, "parts 2"] | None = None
    """The tokens of a document that a part has: begin and end. None: parts are whole documents."""
    knots: Sequence[str] = ()
    """Text before each part that is not trained on; none: the headers of the documents, which are."""
    behind: Sequence[str] = ()
    """Text behind each part."""

    @property
    def closes(self) -> Bool[np.ndarray, "parts"]:
        """Marks the last part of each joined document."""
        return np.append(self.opens[1:], True)[: len(self.opens)]


def chain_groups(
    documents: Int64[np.ndarray, "parts"],
    group: Int64[np.ndarray, "parts"],
    *,
    sizes: Int64[np.ndarray, "parts 2"] | None = None,
    most_tokens: int | None = None,
) -> PartOrder:
    """Join neighbours of one group. A chain closes before the part that would make it longer than ``most_tokens``, by
    the ``sizes`` of the parts (``measure_parts``)."""
    opens = np.diff(group, prepend=-1) != 0
    groups = int(opens.sum())
    if most_tokens is not None:
        assert sizes is not None
        total = 0
        for part, (opening, following) in enumerate(sizes.tolist()):
            total = opening if opens[part] else total + following
            if total > most_tokens and not opens[part]:
                opens[part], total = True, opening
    return PartOrder(documents, opens, int(opens.sum()) - groups)


def measure_parts(
    tokens: Int64[np.ndarray, "parts"],
    headers: Sequence[str],
    separator: str,
    *,
    keeps_ends: bool,
    tokenizer: Tokenizer,
) -> Int64[np.ndarray, "parts 2"]:
    """What each part adds to a joined document, in tokens: where it opens one, and where it follows another part."""
    size = {text: len(tokenizer.encode_inside(text)) for text in {separator, *headers}}
    opening = tokens + np.array([size[header] for header in headers], dtype=np.int64)
    # a part that follows loses its BOS, and the part before it its EOS
    between = size[separator] - int(tokenizer.bos_id is not None) - int(not keeps_ends)
    return np.stack([opening, opening + between], axis=1)


def make_pieces(
    parts: PartOrder,
    *,
    tokens: Int64[np.ndarray, "documents"],
    headers: Sequence[str],
    separator: str,
    keeps_ends: bool,
    trains_added: bool,
    tokenizer: Tokenizer,
) -> PieceTable:
    """The table of joined documents. ``tokens`` and ``headers`` are of all stored documents.

    ``keeps_ends``: parts keep their EOS, since it ends an answer. ``trains_added``: the added tokens are trained on.
    """
    added, around = _encode_between(parts, headers, separator, trains_added=trains_added, tokenizer=tokenizer)
    size = np.array([len(each.ids) for each in added], dtype=np.int64)
    whole = tokens[parts.documents]
    begin, end = (np.zeros_like(whole), whole) if parts.spans is None else parts.spans.T
    bos = int(tokenizer.bos_id is not None)
    begins, ends = begin == 0, end == whole
    assert begins[parts.opens].all() and ends[parts.closes].all()
    borders = bos * int((begins & ~parts.opens).sum()) + int(not keeps_ends) * int((ends & ~parts.closes).sum())
    joined = np.cumsum(parts.opens) - 1
    columns = (parts.documents, parts.opens, parts.closes, joined, begin, end, whole, *around.T)
    rows = [
        _Columns(*(column[at : at + _CHUNK_PARTS] for column in columns)).make_rows(
            size, len(tokens), bos=bos, keeps_ends=keeps_ends
        )
        for at in range(0, len(joined), _CHUNK_PARTS)
    ]
    return PieceTable(
        rows=np.concatenate([np.empty((0, 5), dtype=np.int64), *rows]),
        added=added,
        stored=len(tokens),
        ledger=JoinLedger(
            parts=int(begins.sum()),
            alone=int((parts.opens & parts.closes).sum()),
            documents=int(parts.opens.sum()),
            continued=parts.continued,
            tokens_in=int((end - begin).sum()),
            border_tokens=borders,
            cut=int((begins & ~ends).sum()),
        ),
    )


def _encode_between(
    parts: PartOrder, headers: Sequence[str], separator: str, *, trains_added: bool, tokenizer: Tokenizer
) -> tuple[tuple[Added, ...], Int64[np.ndarray, "parts 2"]]:
    """The separator and all other added tokens, each once; and for each part the number of those before and behind it,
    -1 for none."""
    before = parts.knots or [headers[number] for number in parts.documents.tolist()]
    behind = parts.behind or [""] * len(parts.documents)
    texts = [(separator, trains_added)]
    texts += [(text, trains_added and not parts.knots) for text in sorted({*before} - {""})]
    first_behind = len(texts)
    texts += [(text, trains_added) for text in sorted({*behind} - {""})]
    heads = {text: number for number, (text, _) in enumerate(texts[1:first_behind], 1)}
    tails = {text: number for number, (text, _) in enumerate(texts[first_behind:], first_behind)}
    added = tuple(Added(tokenizer.encode_inside(text).astype(np.int64), trained) for text, trained in texts)
    around = np.full((len(parts.documents), 2), -1, dtype=np.int64)
    around[:, 0] = [heads.get(text, -1) for text in before]
    around[:, 1] = [tails.get(text, -1) for text in behind]
    return added, around


class _Columns(NamedTuple):
    """What the rows of parts are made of. ``head`` and ``tail`` number the added text before and behind a part."""

    documents: Int64[np.ndarray, "parts"]
    opens: Bool[np.ndarray, "parts"]
    closes: Bool[np.ndarray, "parts"]
    joined: Int64[np.ndarray, "parts"]
    begin: Int64[np.ndarray, "parts"]
    end: Int64[np.ndarray, "parts"]
    whole: Int64[np.ndarray, "parts"]
    head: Int64[np.ndarray, "parts"]
    tail: Int64[np.ndarray, "parts"]

    def make_rows(
        self, size: Int64[np.ndarray, "added"], stored: int, *, bos: int, keeps_ends: bool
    ) -> Int64[np.ndarray, "pieces 5"]:
        """Rows ``[joined document, number, begin, end, opens]``: at most six a part, in this order: the separator
        before it, the BOS of the joined document, the text before it, its tokens, the text behind it, the EOS of the
        document. ``size``: the tokens of each added text.
        """
        numbers, first, last, joined, begin, end, whole, head, tail = self
        has_head, has_tail, nothing = head >= 0, tail >= 0, np.zeros(len(numbers), dtype=np.int64)
        apart = first & has_head & bool(bos)
        ends_apart = last & has_tail
        text_begin = np.where((begin > 0) | (first & ~apart), begin, bos)
        text_end = np.where((end < whole) | ((last | keeps_ends) & ~ends_apart), end, end - 1)
        rows = np.stack(
            [
                np.stack([joined, nothing + stored, nothing, np.where(first, 0, size[0]), nothing], axis=1),
                np.stack([joined, numbers, nothing, apart * bos, nothing + 1], axis=1),
                np.stack([joined, stored + np.maximum(head, 0), nothing, has_head * size[head], ~apart], axis=1),
                np.stack([joined, numbers, text_begin, text_end, ~has_head], axis=1),
                np.stack([joined, stored + np.maximum(tail, 0), nothing, has_tail * size[tail], nothing], axis=1),
                np.stack([joined, numbers, whole - ends_apart, whole, nothing], axis=1),
            ],
            axis=1,
        )  # [parts, rows of a part, columns]
        flat = rows.reshape(-1, 5)
        return flat[flat[:, 2] < flat[:, 3]].astype(np.int64)
