"""Token ids of conversations, equal to those of transformers for the same text. The loss is on every answer token.

The whole text of a conversation is encoded at once, and its special tokens are parsed as such. The reason: a tokenizer
may change the text around a special token (it adds a space in front or removes white space), and each does this in its
own way. Where a message spells a special token in letters, the text between the special tokens is encoded and the ids
of the special tokens are inserted.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8, UInt32
from tokenizers import Tokenizer as Bpe

from ropewalk.corpus.read.special_token_text import OPEN, any_of, take_marks
from ropewalk.corpus.tokens.safe_splits import cut_text

Spans = Sequence[tuple[int, int]]
Found = tuple[list[int], list[tuple[int, int]]]
"""Ids, and for each id its (start, end) in the characters of the text."""
_BATCH_CHARACTERS = 1 << 18
"""An encoding with offsets takes 500 bytes a token."""
_LONG_CHARACTERS = 1 << 20


class ChatIds:
    """A tokenizer that parses special tokens in the text. ``letters`` encodes texts without parsing them."""

    def __init__(self, bpe: Bpe, letters: Callable[[list[str]], list[UInt32[np.ndarray, "_"]]], *, cuts: bool) -> None:
        self._bpe, self._letters = bpe, letters
        added = list(bpe.get_added_tokens_decoder().values())
        self._tokens = {token.content: token for token in added if token.special}
        self._tags = {token.content for token in added if not token.special}
        self._special = any_of(list(self._tokens))
        self._cuts = cuts and not any(token.lstrip for token in added)

    def encode(
        self, documents: Sequence[tuple[str, Spans]]
    ) -> Iterator[tuple[UInt32[np.ndarray, "tokens"], UInt8[np.ndarray, "tokens"]]]:
        """Yield (ids, mask) of each text.

        No BOS or EOS is added that the text does not hold. The mask is 1 where a token has a character in a span.
        """
        batch: list[tuple[str, Spans]] = []
        size = 0
        for document in documents:
            batch.append(document)
            size += len(document[0])
            if size >= _BATCH_CHARACTERS:
                yield from self._encode_batch(batch)
                batch, size = [], 0
        yield from self._encode_batch(batch)

    def _encode_batch(self, batch: list[tuple[str, Spans]]) -> Iterator[tuple[Any, Any]]:
        whole = [text for text, _ in batch if not _is_hard(text)]
        encodings = iter(self._bpe.encode_batch(whole, add_special_tokens=False))
        for text, spans in batch:
            if OPEN in text:
                text, spans, letters = take_marks(text, spans)
                found = self._encode_sections(text, letters)
            elif _is_hard(text):
                found = self._encode_pieces(text)
            else:
                encoding = next(encodings)
                found = encoding.ids, encoding.offsets
            ids, borders = np.array(found[0], dtype=np.uint32), np.array(found[1], dtype=np.int64)
            yield ids, _mark(borders.reshape(-1, 2), spans)

    def _encode_pieces(self, text: str) -> Found:
        """Encode a long text, cut only where a cut changes no id."""
        ids, borders, at = list[int](), list[tuple[int, int]](), 0
        for piece in cut_text(text, _LONG_CHARACTERS) if self._cuts else [text]:
            found = self._encode_inside(self._bpe, piece, at, leads=self._prepends and at > 0)
            ids, borders, at = ids + found[0], borders + found[1], at + len(piece)
        return ids, borders

    def _encode_sections(self, text: str, letters: Spans) -> Found:
        """Encode a text in which the special tokens within ``letters`` are ordinary text."""
        ids, borders = list[int](), list[tuple[int, int]]()
        for start, end, token in self._split(text, letters):
            if token is not None:
                found: Found = [token], [(start, end)]
            else:
                leads = self._prepends and start > 0 and not self._prepends_inside
                found = self._encode_inside(self._plain, text[start:end], start, leads=leads)
            ids, borders = ids + found[0], borders + found[1]
        return ids, borders

    def _encode_inside(self, bpe: Bpe, piece: str, at: int, *, leads: bool) -> Found:
        """Encode a chunk of text that begins at character ``at``.

        ``leads``: encode it after a line break, so that the tokenizer puts no space before it.
        """
        encoding = bpe.encode("\n" + piece if leads else piece, add_special_tokens=False)
        skip, shift = (self._newline_ids, at - 1) if leads else (0, at)
        return encoding.ids[skip:], [(start + shift, end + shift) for start, end in encoding.offsets[skip:]]

    def _split(self, text: str, letters: Spans) -> Iterator[tuple[int, int, int | None]]:
        """Yield (start, end, id of a special token or None) of each section.

        White space that a special token removes (its ``lstrip`` and ``rstrip``) is left out.
        """
        at, strips, skipped = 0, False, dict(letters)
        breaks = [start + 1 for start, end in letters if text[start:end] in self._tags]
        search = 0
        while search <= len(text):
            found = self._special.search(text, search)
            if found is not None and found.start() in skipped:
                search = skipped[found.start()]
                continue
            end = len(text) if found is None else found.start()
            token = None if found is None else self._tokens[found[0]]
            start = end - len(text[at:end].lstrip()) if strips else at
            stop = start + len(text[start:end].rstrip()) if token is not None and token.lstrip else end
            borders = [start, *(place for place in breaks if start < place < stop), stop]
            yield from ((a, b, None) for a, b in pairwise(borders) if a < b)
            if found is None or token is None:
                return
            yield found.start(), found.end(), self._bpe.token_to_id(found[0])
            at, search, strips = found.end(), found.end(), token.rstrip

    @cached_property
    def _plain(self) -> Bpe:
        plain = Bpe.from_str(self._bpe.to_str())
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def _newline_ids(self) -> int:
        return len(self._letters(["\n"])[0])

    @cached_property
    def _prepends(self) -> bool:
        """Whether the tokenizer puts a space before a text."""
        return len(self._letters(["\nx"])[0]) < sum(map(len, self._letters(["\n", "x"])))

    @cached_property
    def _prepends_inside(self) -> bool:
        """Whether the tokenizer also puts a space after every special token, as the one of Llama 2 does."""
        token = next(iter(self._tokens), None)
        if token is None:
            return False
        after = self._bpe.encode(f"{token}x", add_special_tokens=False).ids[1:]
        return bool(list(after) == self._letters(["x"])[0].tolist())


def _is_hard(text: str) -> bool:
    return OPEN in text or len(text) > _LONG_CHARACTERS


def _mark(borders: Int64[np.ndarray, "tokens 2"], spans: Spans) -> UInt8[np.ndarray, "tokens"]:
    """Return a mask. For each span it is 1 from the first token with a character in the span to the last."""
    mask = np.zeros(len(borders), dtype=np.uint8)
    for start, end in spans:
        inside = np.flatnonzero((borders[:, 0] < end) & (borders[:, 1] > start))
        if len(inside):
            mask[inside[0] : inside[-1] + 1] = 1
    return mask
