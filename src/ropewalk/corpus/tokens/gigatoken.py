"""The gigatoken library in place of tokenizers, twenty times faster, as long as it is proven to give the same ids.

Where it cannot be had, a memory of words (word_cache.py), half as fast again as tokenizers. Either is tried on traps of
Unicode and on the first of the user's own text with the user's own tokenizer. One id that differs, or a tokenizer that
it cannot load, and the run goes on without it, after one line that says so. Later on a piece of every megabyte is still
compared, and what differs then stops the run.
"""

import json
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import UInt32

from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.corpus.tokens.word_cache import load_words

Encode = Callable[[list[str]], list[UInt32[np.ndarray, "_"]]]
_CHECKED_CHARACTERS = 1 << 17
_SAMPLE_CHARACTERS = 1 << 11
_TRAPS = (
    "", " ", "\n", "\r\n", "\t \n \n\n  x", "  leading", "trailing  ", "a  b   c    d", "don't WE'LL I'M", "x" * 3000,
    " " * 300 + "x", "=" * 500, "1234567890 12.5e-3 ½ ² Ⅷ ٣٤", "天地玄黄，宇宙洪荒。" * 30, "ｆｕｌｌ　ｗｉｄｔｈ",
    "한국어 텍스트", "かな カナ", "ไทยไม่มีช่องว่าง", "עברית وعربي", "é e\u0301 ñ n\u0303 Å A\u030a",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 ☃\ufe0e", "\u200b\u00a0\u3000\ufeff",
    "naïve café — “quotes” …", "def f(x):\n\treturn {'a': [1, 2]}\n\n\n# end", "https://example.org/a?b=c&d=%20#e",
    "\x00\x01\x7f", "\U0010ffff\ue000", "<|endoftext|><s></s>[INST]<unk>", "\u0130i\u0307 ß ŉ ǆ",
    "a\u0300\u0301\u0302b", "\u1e0b\u0323", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠮷野家",
)  # fmt: skip
TRAPS = tuple(unicodedata.normalize("NFC", text) for text in _TRAPS)
"""Texts on which encoders are known to disagree, or could; composed like clean text: tokenizers errs on what is not."""


_FIX = "remove STORE/.shards, {} and run the same command again; please report the text to them"
_FIXES = {"gigatoken": "uninstall gigatoken", "regex": "install the version of regex in constraints.txt"}


class Fast:
    """gigatoken on one tokenizer, else a memory of words: unproven at first, then trusted or set aside."""

    def __init__(self, made_of: dict[str, Any], encode: Encode) -> None:
        self._slow = encode
        self._left = [("regex", load_words(made_of, encode)), ("gigatoken", _load(made_of))]
        self._take_next()

    @property
    def trusted(self) -> bool:
        return self._encoder is not None and self._checked >= _CHECKED_CHARACTERS

    def encode(self, texts: list[str]) -> list[UInt32[np.ndarray, "_"]]:
        """The ids of ``texts``, by whatever may be believed."""
        tried: list[str] = []
        while self._encoder is not None and not self.trusted and len(tried) < len(texts):
            self._checked += len(texts[len(tried)])
            tried.append(texts[len(tried)])
        ids, rest = self._slow(tried), texts[len(tried) :]
        if tried and self._differs(tried, ids):
            self._tell_difference("this text")
            self._take_next()
            return [*ids, *self.encode(rest)]
        return [*ids, *self._encode_rest(rest)]

    def _encode_rest(self, texts: list[str]) -> list[UInt32[np.ndarray, "_"]]:
        if self._encoder is None or not texts:
            return self._slow(texts)
        if self._differs([texts[len(texts) // 2][:_SAMPLE_CHARACTERS]]):
            raise _lost_trust(self._library)
        return [np.array(self._encoder.encode(text), dtype=np.uint32) for text in texts]  # its own keep room for more

    def _differs(self, texts: Sequence[str], ids: list[UInt32[np.ndarray, "_"]] | None = None) -> bool:
        assert self._encoder is not None
        truth = self._slow(list(texts)) if ids is None else ids
        return any(not np.array_equal(self._encoder.encode(t), own) for t, own in zip(texts, truth, strict=True))

    def _take_next(self) -> None:
        """The next encoder that there is and that passes the traps, to be proven on the user's text."""
        self._encoder: Any = None
        self._checked = 0
        while self._encoder is None and self._left:
            self._library, self._encoder = self._left.pop()
            if self._encoder is not None and self._differs(TRAPS):
                self._tell_difference("a trap of Unicode")
                self._encoder = None

    def _tell_difference(self, where: str) -> None:
        say(f"{self._library}'s ids differ from the tokenizer's own on {where}: going on without it")


def _lost_trust(library: str) -> UserError:
    return UserError(
        f"{library} gives other ids than the tokenizer",
        where="the token store",
        why="they agreed on the text before, and differ on a piece of this one",
        fix=_FIX.format(_FIXES[library]),
    )


def _load(made_of: dict[str, Any]) -> Any:
    """gigatoken's encoder, or None where it is not installed or has none for this tokenizer."""
    if find_spec("gigatoken") is None:
        return None
    from gigatoken import Tokenizer

    # Without its special tokens, which in a text are text.
    plain = {**made_of, "added_tokens": [token for token in made_of["added_tokens"] if not token["special"]]}
    try:
        return Tokenizer.from_json(json.dumps(plain))
    except (RuntimeError, ValueError) as error:
        _tell(f"gigatoken cannot load this tokenizer, going on without it: {str(error).partition(': [')[0]}")
        return None


@cache
def _tell(line: str) -> None:
    """Once in a process, which may make the same tokenizer for every source."""
    say(line)
