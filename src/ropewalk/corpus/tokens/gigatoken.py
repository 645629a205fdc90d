"""The gigatoken library in place of tokenizers: twenty times faster, used only while it gives the same ids.

Where gigatoken is not available, a cache of words (word_cache.py) is used. It is 1.5 to 2.7 times as fast as
tokenizers. Each is tested with the user's tokenizer on difficult Unicode texts and on the first part of the user's
text. If one id differs, or if the library cannot load the tokenizer, the run continues without the library and prints
one line. Later a sample of every megabyte is still compared, and a difference then stops the run.
"""

import json
import unicodedata
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import UInt32

from ropewalk.core.error import UserError
from ropewalk.core.progress import say, say_once
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
"""Texts on which encoders may disagree. They are composed (NFC), as cleaned text is: tokenizers fails on other text."""


_FIX = "remove STORE/.shards, {} and run the same command again; please report the text to them"
_FIXES = {"gigatoken": "uninstall gigatoken", "regex": "install the version of regex in constraints.txt"}


class Fast:
    """gigatoken for one tokenizer, else a cache of words. Each is first on trial, then trusted or removed."""

    def __init__(self, made_of: dict[str, Any], encode: Encode) -> None:
        self._slow = encode
        library = _load(made_of)
        alone = None if library is None else _EachAlone(library)
        self._left: list[tuple[str, Any]] = [("regex", load_words(made_of, encode)), ("gigatoken", alone)]
        self._take_next()

    @property
    def trusted(self) -> bool:
        return self._encoder is not None and self._checked >= _CHECKED_CHARACTERS

    def encode(self, texts: list[str]) -> list[UInt32[np.ndarray, "_"]]:
        """The ids of ``texts``, by the fastest encoder that is trusted."""
        tried: list[str] = []
        while self._encoder is not None and not self.trusted and len(tried) < len(texts):
            self._checked += len(texts[len(tried)])
            tried.append(texts[len(tried)])
        ids, rest = self._slow(tried), texts[len(tried) :]
        if tried and self._differs(tried, ids):
            # on the text of this process: others may not have met it, so each tells it
            say(self._tell_difference("this text"))
            self._take_next()
            return [*ids, *self.encode(rest)]
        return [*ids, *self._encode_rest(rest)]

    def _encode_rest(self, texts: list[str]) -> list[UInt32[np.ndarray, "_"]]:
        if self._encoder is None or not texts:
            return self._slow(texts)
        if self._differs([texts[len(texts) // 2][:_SAMPLE_CHARACTERS]]):
            raise _lost_trust(self._library)
        encoded: list[UInt32[np.ndarray, _]] = self._encoder.encode_all(texts)
        return encoded

    def _differs(self, texts: Sequence[str], ids: list[UInt32[np.ndarray, "_"]] | None = None) -> bool:
        assert self._encoder is not None
        truth = self._slow(list(texts)) if ids is None else ids
        return any(not np.array_equal(*pair) for pair in zip(self._encoder.encode_all(texts), truth, strict=True))

    def _take_next(self) -> None:
        """Take the next available encoder that passes ``TRAPS``. It is then tested on the user's text."""
        self._encoder: Any = None
        self._checked = 0
        while self._encoder is None and self._left:
            self._library, self._encoder = self._left.pop()
            if self._encoder is not None and self._differs(TRAPS):
                say_once(self._tell_difference("a trap of Unicode"))
                self._encoder = None

    def _tell_difference(self, where: str) -> str:
        return f"{self._library}'s ids differ from the ids of the tokenizer on {where}: it is not used"


class _EachAlone:
    """gigatoken's encoder, which takes one text at a time."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def encode_all(self, texts: Sequence[str]) -> list[UInt32[np.ndarray, "_"]]:
        # a copy, because its arrays overallocate
        return [np.array(self._library.encode(text), dtype=np.uint32) for text in texts]


def _lost_trust(library: str) -> UserError:
    return UserError(
        f"{library} gives other ids than the tokenizer",
        where="the token store",
        why="they agreed on earlier text, and differ on a part of this text",
        fix=_FIX.format(_FIXES[library]),
    )


def _load(made_of: dict[str, Any]) -> Any:
    """The encoder of gigatoken, or None where gigatoken is not installed or does not support this tokenizer."""
    if find_spec("gigatoken") is None:
        return None
    from gigatoken import Tokenizer

    # Special tokens are left out: in a text they are ordinary text.
    plain = {**made_of, "added_tokens": [token for token in made_of["added_tokens"] if not token["special"]]}
    try:
        return Tokenizer.from_json(json.dumps(plain))
    except (RuntimeError, ValueError) as error:
        say_once(f"gigatoken cannot load this tokenizer, so it is not used: {str(error).partition(': [')[0]}")
        return None
