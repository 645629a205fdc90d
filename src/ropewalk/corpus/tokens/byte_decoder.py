"""The text of token ids by a table of bytes, for tokenizers whose tokens are bytes (GPT-2, Llama 3, Qwen and others).

The library spells every token by itself, 6 MB a second; one gather of bytes makes the same text at fifteen times this
speed.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer, UInt8
from tokenizers import Tokenizer as Bpe

from ropewalk.corpus.tokens.apart_pairs import byte_of_sign


class ByteDecoder:
    """The bytes of every token of a vocabulary."""

    def __init__(self, spellings: Mapping[int, str]) -> None:
        """``spellings``: each id's token, in the characters that stand for bytes; another token stands for itself."""
        signs = byte_of_sign()
        pieces = [b""] * (max(spellings, default=-1) + 1)
        for number, token in spellings.items():
            known = all(sign in signs for sign in token)
            pieces[number] = bytes(map(signs.__getitem__, token)) if known else token.encode()
        self.vocabulary = len(pieces)
        self._size: Int32[np.ndarray, vocabulary] = np.array([len(piece) for piece in pieces], dtype=np.int32)
        self._begin: Int32[np.ndarray, vocabulary] = (np.cumsum(self._size) - self._size).astype(np.int32)
        self._bytes: UInt8[np.ndarray, all] = np.frombuffer(b"".join(pieces), dtype=np.uint8)

    def decode(self, ids: Integer[np.ndarray, "tokens"]) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD."""
        size = self._size.take(ids)
        end = np.cumsum(size, dtype=np.int64)
        at = np.repeat(self._begin.take(ids) - end + size, size)  # where a token's bytes are, less where they go
        at += np.arange(len(at))
        return self._bytes.take(at).tobytes().decode("utf-8", "replace")


class Decoder:
    """The text of token ids: by a table of bytes where a tokenizer's tokens are bytes, else by the library."""

    def __init__(self, bpe: Bpe) -> None:
        self._bpe = bpe

    def decode(self, tokens: Sequence[int] | Integer[np.ndarray, "tokens"]) -> str:
        """The text of ``tokens``, special ones included. An id without a token has no text."""
        ids = np.asarray(tokens, dtype=np.int64)
        if self._table is not None and ((ids >= 0) & (ids < self._table.vocabulary)).all():
            return self._table.decode(ids)
        return str(self._bpe.decode(ids.tolist(), skip_special_tokens=False))

    @cached_property
    def _table(self) -> ByteDecoder | None:
        made_of: dict[str, Any] = json.loads(self._bpe.to_str())
        if (made_of["decoder"] or {}).get("type") != "ByteLevel":
            return None
        return ByteDecoder({number: token for token, number in self._bpe.get_vocab(with_added_tokens=True).items()})
