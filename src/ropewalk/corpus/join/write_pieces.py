"""Writes the joined documents of a source: a table of pieces of the store, and the few tokens between them.

A joined document is [BOS] header text separator header text ... EOS. The borders that its parts had as documents of
their own are left out, and counted: tokens in = tokens of the parts in joined documents + tokens of borders.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from ropewalk.corpus.tokens.joined_documents import ADDED, PIECES
from ropewalk.corpus.tokens.store import write_shards
from ropewalk.corpus.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class JoinLedger:
    """The amounts of a source's joins: tokens in = tokens out - added + borders."""

    parts: int
    """Stored documents that were joined."""
    alone: int
    """Of them those that are a document by themselves."""
    documents: int
    """Documents that they make."""
    continued: int
    """Of them those that continue one that would be longer than ``most_tokens``."""
    tokens_in: int
    tokens_out: int
    added_tokens: int
    """Tokens of headers and separators."""
    border_tokens: int
    """BOS and EOS between parts, which are left out."""

    def check(self) -> None:
        """Assert that no token is lost or read twice."""
        assert self.tokens_in == self.tokens_out - self.added_tokens + self.border_tokens

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class PartOrder:
    """Documents in the order in which they are joined. ``opens`` marks the first part of each joined document."""

    documents: Int64[np.ndarray, "parts"]
    opens: Bool[np.ndarray, "parts"]
    continued: int

    @property
    def closes(self) -> Bool[np.ndarray, "parts"]:
        """Marks the last part of each joined document."""
        return np.append(self.opens[1:], True)[: len(self.opens)]


def chain_groups(
    documents: Int64[np.ndarray, "parts"],
    group: Int64[np.ndarray, "parts"],
    tokens: Int64[np.ndarray, "parts"],
    most_tokens: int | None,
) -> PartOrder:
    """Join neighbours of one group. A chain closes before the part that would make it longer than ``most_tokens``."""
    opens = np.diff(group, prepend=-1) != 0
    groups = int(opens.sum())
    if most_tokens is not None:
        size = 0
        for part, count in enumerate(tokens.tolist()):
            size = count if opens[part] else size + count
            if size > most_tokens and not opens[part]:
                opens[part], size = True, count
    return PartOrder(documents, opens, int(opens.sum()) - groups)


def write_pieces(
    chains: PartOrder,
    folder: Path,
    *,
    tokens: Int64[np.ndarray, "documents"],
    headers: Sequence[str],
    separator: str,
    keeps_ends: bool,
    trains_added: bool,
    tokenizer: Tokenizer,
) -> JoinLedger:
    """Write the table and the added tokens into ``folder``.

    ``tokens`` and ``headers`` are of all stored documents. ``keeps_ends``: parts keep their EOS, since it ends an
    answer. ``trains_added``: the added tokens are trained on.
    """
    texts = sorted({headers[number] for number in chains.documents.tolist()} - {""})
    added = [tokenizer.encode_inside(text).astype(np.int64) for text in (separator, *texts)]
    size = np.array([len(ids) for ids in added], dtype=np.int64)
    numbers = {text: number for number, text in enumerate(texts, 1)}
    header = np.array([numbers.get(headers[number], -1) for number in chains.documents.tolist()], dtype=np.int64)
    table = _make_table(chains, tokens, header, size, bos=int(tokenizer.bos_id is not None), keeps_ends=keeps_ends)
    np.save(folder / PIECES, table, allow_pickle=False)
    (folder / ADDED).mkdir()
    if size.any():
        write_shards(_mask(added, trains_added), folder / ADDED, vocabulary=tokenizer.vocabulary)
    lengths = table[:, 3] - table[:, 2]
    of_added = int(lengths[table[:, 1] >= len(tokens)].sum())
    alone = int((chains.opens & chains.closes).sum())
    count_in, count_out = int(tokens[chains.documents].sum()), int(lengths.sum())
    borders = len(chains.documents) - int(chains.opens.sum())
    dropped = borders * (int(tokenizer.bos_id is not None) + int(not keeps_ends))
    return JoinLedger(
        parts=len(chains.documents),
        alone=alone,
        documents=int(chains.opens.sum()),
        continued=chains.continued,
        tokens_in=count_in,
        tokens_out=count_out,
        added_tokens=of_added,
        border_tokens=dropped,
    )


def _make_table(
    chains: PartOrder,
    tokens: Int64[np.ndarray, "documents"],
    header: Int64[np.ndarray, "parts"],
    size: Int64[np.ndarray, "added"],
    *,
    bos: int,
    keeps_ends: bool,
) -> Int64[np.ndarray, "pieces 5"]:
    """Rows ``[joined document, number, begin, end, opens]``: at most four a part, in this order: the separator before
    it, the BOS of the whole document, the header, the text."""
    numbers, first, last = chains.documents, chains.opens, chains.closes
    joined, stored = np.cumsum(first) - 1, len(tokens)
    has_header, nothing = header >= 0, np.zeros(len(numbers), dtype=np.int64)
    apart = first & has_header & bool(bos)
    rows = np.stack(
        [
            np.stack([joined, nothing + stored, nothing, np.where(first, 0, size[0]), nothing], axis=1),
            np.stack([joined, numbers, nothing, apart * bos, nothing + 1], axis=1),
            np.stack([joined, stored + np.maximum(header, 0), nothing, has_header * size[header], ~apart], axis=1),
            np.stack(
                [
                    joined,
                    numbers,
                    np.where(first & ~apart, 0, bos),
                    tokens[numbers] - np.where(last | keeps_ends, 0, 1),
                    ~has_header,
                ],
                axis=1,
            ),
        ],
        axis=1,
    )  # [parts, rows of a part, columns]
    flat = rows.reshape(-1, 5)
    return flat[flat[:, 2] < flat[:, 3]].astype(np.int64)


def _mask(
    added: Sequence[Int64[np.ndarray, "_"]], trained: bool
) -> Iterator[tuple[Int64[np.ndarray, "_"], UInt8[np.ndarray, "_"]]]:
    for ids in added:
        yield ids, np.full(len(ids), trained, dtype=np.uint8)
