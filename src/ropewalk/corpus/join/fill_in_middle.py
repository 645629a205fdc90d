"""Moves the middle of documents to their end, as Code Llama and others were trained (2308.12950, 2207.14255).

Two cuts are drawn over the text of a document. Prefix, suffix, middle: ``PRE prefix SUF suffix MID middle``. Suffix,
prefix, middle: ``PRE SUF suffix MID prefix middle``, where prefix and middle are encoded as one text. A cut may lie
within a word. Then a few tokens around it are encoded again, each side by itself; all other tokens are those of the
store.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer, UInt64

from ropewalk.core.error import UserError
from ropewalk.core.seed import stream
from ropewalk.corpus.fill_rules import KNOWN_SENTINELS, FillRules
from ropewalk.corpus.join.cut_places import between_characters
from ropewalk.corpus.join.write_pieces import Added, PieceTable
from ropewalk.corpus.tokens.store import StoredDocuments
from ropewalk.corpus.tokens.tokenizer import Tokenizer

_FEWEST_TOKENS = 8
_REACH = 8
"""Tokens on either side of a cut within a word that are encoded again."""


def find_sentinels(rules: FillRules, tokenizer: Tokenizer, *, where: str) -> list[int]:
    """The ids before prefix, suffix and middle, and after the middle if there is one.

    Raises UserError where the base has no such tokens, or where one of them stands in other text too: at the border of
    every document, or as the token of a word.
    """
    for names in [rules.sentinels] if rules.sentinels else KNOWN_SENTINELS:
        ids = [tokenizer.find_id(name) for name in names]
        found = [id for id in ids if id is not None]
        if len(found) == len(names):
            _refuse_borders(names, found, tokenizer, where=where)
            _refuse_ordinary(names, found, tokenizer, where=where)
            return found
        if rules.sentinels:
            missing = ", ".join(name for name, id in zip(names, ids, strict=True) if id is None)
            raise UserError(
                "the base has no such tokens",
                where=f"{where}: fill_in_middle.sentinels",
                why=f"not in its vocabulary: {missing}",
                fix="give the tokens with which the base was trained to fill in the middle, in the order prefix, "
                "suffix, middle",
            )
    raise UserError(
        "the base has no tokens for filling in the middle",
        where=f"{where}: fill_in_middle",
        why=f"none of the known sets is in its vocabulary, such as {' '.join(KNOWN_SENTINELS[1])}",
        fix="name its tokens as fill_in_middle.sentinels, or leave out fill_in_middle: new tokens would be untrained",
    )


def _refuse_borders(names: Sequence[str], ids: Sequence[int], tokenizer: Tokenizer, *, where: str) -> None:
    for name, id in zip(names, ids, strict=True):
        if id in (tokenizer.bos_id, tokenizer.eos_id):
            raise UserError(
                "a sentinel is a border of documents",
                where=f"{where}: fill_in_middle.sentinels",
                why=f"{name} begins or ends every document of this base",
                fix="give the tokens before prefix, suffix and middle; leave out the fourth one if the document's end "
                "follows the middle",
            )


def _refuse_ordinary(names: Sequence[str], ids: Sequence[int], tokenizer: Tokenizer, *, where: str) -> None:
    ordinary = [name for name, id in zip(names, ids, strict=True) if tokenizer.is_ordinary(id)]
    if ordinary:
        raise UserError(
            "a sentinel is a token of ordinary text",
            where=f"{where}: fill_in_middle.sentinels",
            why=f"the base writes words or bytes with {', '.join(map(repr, ordinary))}, so that nobody could tell "
            "where a middle begins",
            fix="give the added tokens with which the base was trained to fill in the middle; a base without them "
            "cannot be trained so",
        )


class _Cut(NamedTuple):
    """A cut of a text: it lies after tokens ``[.., stop)`` and ``left``, and before ``right`` and ``[start, ..)``."""

    stop: int
    start: int
    left: Int64[np.ndarray, "_"] | None = None
    right: Int64[np.ndarray, "_"] | None = None


@dataclass
class _Filler:
    tokenizer: Tokenizer
    sentinels: Sequence[int]
    added: list[Added]
    stored: int
    recoded: int = 0

    def number(self, ids: Int64[np.ndarray, "_"]) -> int:
        """Add tokens and return their number."""
        self.added.append(Added(ids, trained=True))
        return self.stored + len(self.added) - 1

    def move(
        self, ids: Integer[np.ndarray, "tokens"], random: np.random.Generator, *, suffix_first: bool
    ) -> list[list[tuple[int, int, int]]]:
        """The pieces ``(number, begin, end)`` of the moved text, in order; number -1 is the text itself."""
        drawn = sorted(random.choice(len(ids) + 1, size=2, replace=False).tolist())
        first, second = (between_characters(self.tokenizer, ids, at) for at in drawn)
        cuts = [self._cut_within(ids, at, random) for at in (first, second)]
        if suffix_first:
            cuts[0] = _Cut(0, 0)
        if cuts[0].start > cuts[1].stop:  # both lie in one word
            cuts = [_Cut(first, first), _Cut(second, second)]
        self.recoded += sum(cut.start - cut.stop for cut in cuts)
        begin, end = _Cut(0, 0), _Cut(len(ids), len(ids))
        prefix, middle, suffix = (self._between(*pair) for pair in ((begin, cuts[0]), cuts, (cuts[1], end)))
        pre, suf, mid, *eot = ([(self.stored + at, 0, 1)] for at in range(len(self.sentinels)))
        if suffix_first:
            return [pre, suf, suffix, mid, prefix, middle, *eot]
        return [pre, prefix, suf, suffix, mid, middle, *eot]

    def _between(self, first: _Cut, second: _Cut) -> list[tuple[int, int, int]]:
        pieces = [] if first.right is None else [(self.number(first.right), 0, len(first.right))]
        pieces.append((-1, first.start, second.stop))
        return pieces if second.left is None else [*pieces, (self.number(second.left), 0, len(second.left))]

    def _cut_within(self, ids: Integer[np.ndarray, "tokens"], at: int, random: np.random.Generator) -> _Cut:
        """A cut at a character of token ``at``; before it where the token cannot be divided."""
        share, here = random.random(), _Cut(at, at)
        start, stop = (between_characters(self.tokenizer, ids, each) for each in (max(0, at - _REACH), at + _REACH))
        window = ids[start:stop]
        text = self.tokenizer.decode(window)
        before, after = (self.tokenizer.decode(ids[start:end]) for end in (at, min(at + 1, stop)))
        at_character = len(before) + int(share * (len(after) - len(before)))
        if not (text.startswith(before) and text.startswith(after)) or at_character in (len(before), len(text)):
            return here
        left, right = (self.tokenizer.encode_inside(part) for part in (text[:at_character], text[at_character:]))
        decoded = (self.tokenizer.decode(left), self.tokenizer.decode(right))
        if decoded != (text[:at_character], text[at_character:]):
            return here
        same = self.tokenizer.encode_inside(text)
        return _Cut(start, stop, left, right) if np.array_equal(same, window) else here


def fill_in_middle(
    table: PieceTable,
    documents: StoredDocuments,
    digests: UInt64[np.ndarray, "documents"],
    rules: FillRules,
    *,
    sentinels: Sequence[int],
    tokenizer: Tokenizer,
    seed: int,
) -> PieceTable:
    """Move the middle of some texts of a table. ``documents`` are all stored ones; ``digests`` draw, with ``seed``.

    A text with a sentinel of its own stays as it is, since nobody could tell where its middle begins. So does one of
    which only a part is trained on.
    """
    bos = int(tokenizer.bos_id is not None)
    # Sentinels are the first of the new tokens, so that each is stored once.
    filler = _Filler(tokenizer, sentinels, [Added(np.array([id], dtype=np.int64), True) for id in sentinels], 0)
    filler.stored = table.stored + len(table.added)
    blocks, done, filled = [], 0, 0
    for at in np.flatnonzero(table.rows[:, 1] < table.stored).tolist():
        joined, number, begin, end, opens = table.rows[at].tolist()
        whole = int(documents.lengths[number])
        first, last = max(begin, bos), min(end, whole - 1)  # without BOS and EOS
        if not _FEWEST_TOKENS <= last - first <= rules.most_tokens:
            continue
        random = stream("fill in the middle", seed, int(digests[number]))
        if random.random() >= rules.rate:
            continue
        suffix_first = bool(random.random() < rules.suffix_first)
        ids, mask = documents.read(number, first, last)
        if not mask.all() or np.isin(ids, sentinels).any():
            continue
        moved = filler.move(ids, random, suffix_first=suffix_first)
        rows = [(number, begin, first)]
        for own, start, stop in (piece for part in moved for piece in part):
            rows.append((number, first + start, first + stop) if own < 0 else (own, start, stop))
        rows.append((number, last, end))
        kept = np.array([(joined, *row, 0) for row in rows if row[1] < row[2]], dtype=np.int64)
        kept[0, 4] = opens
        blocks += [table.rows[done:at], kept]
        done, filled = at + 1, filled + 1
    ledger = replace(table.ledger, filled=filled, recoded_tokens=filler.recoded)
    rows_of_all = np.concatenate([*blocks, table.rows[done:]])
    return PieceTable(rows_of_all, (*table.added, *filler.added), table.stored, ledger)
