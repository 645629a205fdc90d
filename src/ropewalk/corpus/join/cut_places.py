"""Places where the tokens of a text may be parted: between characters, and at the end of a line if one is near."""

from functools import cache

import numpy as np
from jaxtyping import Integer

from ropewalk.corpus.tokens.tokenizer import Tokenizer

_LONGEST_CHARACTER = 4
"""Tokens of a character, at most."""


def between_characters(tokenizer: Tokenizer, ids: Integer[np.ndarray, "tokens"], at: int) -> int:
    """The last place up to ``at`` that is not within a character: a character can be several tokens."""
    at = min(at, len(ids))
    while 0 < at < len(ids) and tokenizer.decode(ids[at : at + _LONGEST_CHARACTER]).startswith("\ufffd"):
        at -= 1
    return at


class TextCutter:
    """Cuts texts into chunks of about equal length."""

    def __init__(self, tokenizer: Tokenizer, *, fewest_tokens: int = 16) -> None:
        self._tokenizer = tokenizer
        self._fewest_tokens = fewest_tokens
        """Of a chunk. A text that is too short for this has fewer chunks."""
        self._ends_line = cache(lambda id: tokenizer.decode([id]).endswith("\n"))

    def cut(self, ids: Integer[np.ndarray, "tokens"], chunks: int) -> list[int]:
        """The borders of the chunks in tokens, with 0 and the end: each after a line, if one ends within half a chunk
        behind the even place."""
        chunks = max(1, min(chunks, len(ids) // self._fewest_tokens))
        borders = [0]
        for number in range(1, chunks):
            even = len(ids) * number // chunks
            reach = range(even, min(len(ids) - 1, even + len(ids) // (2 * chunks)))
            line = next((at for at in reach if self._ends_line(int(ids[at - 1]))), None)
            at = between_characters(self._tokenizer, ids, even) if line is None else line
            if at > borders[-1]:
                borders.append(at)
        return [*borders, len(ids)]
