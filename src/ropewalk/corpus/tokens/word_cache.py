"""The ids of the tokenizers library, with each word encoded only once.

The tokenizers library spends most of its time on splitting, not on merging. A tokenizer with a known split pattern
encodes each word separately, so the ids of a text are the ids of its words, one after the other. The library `regex`
splits by the same pattern five times as fast (Python's own `re`, which knows no classes of Unicode, splits common
characters in a third of the time of `regex`), and the ids of a known word are looked up. Words of Han are clauses and
mostly new; they are cut where no token of the vocabulary crosses (apart_pairs.py). The libraries use different versions
of Unicode, so a text is split here only if all versions agree on its characters.
"""

import re
from collections.abc import Callable, Collection, Iterable
from itertools import chain, pairwise
from typing import Any

import numpy as np
import regex
from jaxtyping import UInt32

from ropewalk.corpus.text.language import code_points
from ropewalk.corpus.text.short_texts import count_up, group_short
from ropewalk.corpus.tokens.apart_pairs import ApartPairs, find_apart_pairs
from ropewalk.corpus.tokens.safe_splits import cut_text, split_pattern

Ids = UInt32[np.ndarray, "_"]
Encode = Callable[[list[str]], list[Ids]]
_KEPT_WORDS = 1 << 18
_CUT_CHARACTERS = 1 << 10
_JOINED_WORDS = 128
_HAN = re.compile("[\u3400-\u9fff]")
_LOOKED_AT_CHARACTERS, _MOST_HAN = 1 << 12, 0.125
"""Where words of Han may not be cut, a text that begins with a larger share of Han is encoded without the cache."""
_BORDER = "\0"
_WHOLE_WORDS = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk")
"""Keys of a BPE model with which the ids of a part depend on its word: a word that is a token is taken without merges,
a part has a mark where no word begins or where it ends, and unknown bytes on both sides of a place are one token."""
# Unicode blocks without a code point that may still be assigned to a letter, and without a mark that joins the
# character before it (so the NFC of a text is that of its words): Latin, Greek and Cyrillic, Hebrew, Arabic,
# punctuation, symbols, kana, Han, Hangul, full width, emoji.
SETTLED = (
    (0x0, 0x2FF), (0x384, 0x38A), (0x38E, 0x3A1), (0x3A3, 0x482), (0x48A, 0x52F), (0x5D0, 0x5EA), (0x60C, 0x60F),
    (0x61B, 0x61B), (0x61E, 0x64A), (0x660, 0x66F), (0x671, 0x6D5), (0x6FA, 0x6FF), (0x1E00, 0x1EFF), (0x2000, 0x2064),
    (0x20A0, 0x20BF), (0x2100, 0x218B), (0x2190, 0x23FF), (0x2460, 0x2BFF), (0x3000, 0x3029), (0x3030, 0x303F),
    (0x3041, 0x3096), (0x309B, 0x30FF), (0x3105, 0x312F), (0x3131, 0x318E), (0x31F0, 0x321E), (0x3220, 0x9FFF),
    (0xAC00, 0xD7A3), (0xE000, 0xFA6D), (0xFE30, 0xFE4F), (0xFF01, 0xFFBE), (0xFFE0, 0xFFE6), (0x1F300, 0x1F6FF),
    (0x1F900, 0x1F9FF), (0x20000, 0x2A6DD), (0x2A700, 0x2B734), (0x2B740, 0x2B81D), (0x2B820, 0x2CEA1),
)  # fmt: skip
_UNSETTLED = re.compile(f"[^{''.join(f'{chr(first)}-{chr(last)}' for first, last in SETTLED)}]")
_LETTERS = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff"
_COMMON_HAN = "\u4e00-\u9fa5"
COMMON = f"\x00-\x7f\u00c0-\u00ff{_COMMON_HAN}\u2010-\u2027\u3000-\u3003\u3008-\u3020\uff01-\uff0f\uff1a-\uff20"
"""Characters for which `re` is told the classes: ASCII, Latin letters, Han, and the punctuation of both."""
_UNCOMMON = re.compile(f"[^{COMMON}]")


class WordCache:
    """The words seen so far, with their ids. It is emptied when it holds more than ``_KEPT_WORDS`` words."""

    def __init__(
        self, pattern: str, added: list[str], newline: int, encode: Encode, *, apart: ApartPairs | None
    ) -> None:
        """``apart``: where words of Han may be cut; None where they must stay whole."""
        self._split = regex.compile(pattern, regex.V1).findall
        self._split_common = re.compile(in_common(pattern), re.ASCII).findall
        self._added, self._newline, self._slow, self._apart = added, newline, encode, apart
        self._ids: dict[str, bytes] = {}

    def encode(self, text: str) -> Ids:
        """The ids of ``text``."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Iterable[str]) -> list[Ids]:
        """The ids of each text. Short texts are cut and looked up together."""
        return [ids for group in group_short(texts, len) for ids in self._encode_group(group)]

    def _encode_group(self, texts: list[str]) -> list[Ids]:
        found = [self._find_words(text) for text in texts]
        han = [words for words, cuts_han in found if words is not None and cuts_han]
        parts = iter(self._cut_han(han) if han else ())
        split = [next(parts) if cuts_han else words for words, cuts_han in found]
        if len(self._ids) > _KEPT_WORDS:
            self._ids.clear()
        self._learn(set(chain.from_iterable(filter(None, split))).difference(self._ids))
        return [
            self._slow_ids(text) if words is None else self._look_up(words)
            for text, words in zip(texts, split, strict=True)
        ]

    def _look_up(self, words: list[str]) -> Ids:
        return np.frombuffer(b"".join(map(self._ids.__getitem__, words)), dtype=np.uint32)

    def _slow_ids(self, text: str) -> Ids:
        return np.concatenate(self._slow([*cut_text(text, _CUT_CHARACTERS)]))

    def _find_words(self, text: str) -> tuple[list[str] | None, bool]:
        """The words of ``text``, and whether those of Han are to be cut; None where the tokenizer must encode the whole
        text."""
        if any(token in text for token in self._added):
            return None, False
        if text.isascii():
            return self._split_common(text), False
        if _UNSETTLED.search(text):
            return None, False
        cuts_han = _HAN.search(text) is not None
        if cuts_han and (self._apart is None or _BORDER in text):
            if _is_han(text):
                return None, False
            cuts_han = False
        words: list[str] = []
        for piece in cut_text(text, _CUT_CHARACTERS):  # one uncommon character changes the way of its lines only
            words += self._split(piece) if _UNCOMMON.search(piece) else self._split_common(piece)
        return words, cuts_han

    def _cut_han(self, texts: list[list[str]]) -> list[list[str]]:
        """The words of each text with those of Han cut into parts. A border character is put into each place and split
        at."""
        assert self._apart is not None
        joined = code_points(_BORDER.join(chain.from_iterable(texts)))
        cuts = self._apart.find_cuts(joined)
        spread = np.zeros(len(joined) + int(np.count_nonzero(cuts)), dtype="<u4")
        places = np.arange(len(joined))
        places += np.cumsum(cuts)
        spread[places] = joined
        parts = spread.tobytes().decode("utf-32-le").split(_BORDER)
        # A text has as many more parts as cuts between its first character and the first one of the next text.
        ends = count_up([sum(map(len, words)) + len(words) for words in texts])[1:]
        ends[-1] -= 1  # no border after the last word
        borders = count_up([len(words) for words in texts])
        borders[1:] += np.append(0, np.cumsum(cuts))[ends]
        return [parts[first:last] for first, last in pairwise(borders.tolist())]

    def _learn(self, words: Collection[str]) -> None:
        """Encode new words and store their ids.

        A word that ends with a letter also ends before a line break, so many are encoded at once as the lines of one
        text.
        """
        lines = [word for word in words if word[-1].isalpha()]
        others = [word for word in words if not word[-1].isalpha()]
        self._ids.update(zip(others, (ids.tobytes() for ids in self._slow(others)), strict=True))
        groups = [lines[start : start + _JOINED_WORDS] for start in range(0, len(lines), _JOINED_WORDS)]
        for group, ids in zip(groups, self._slow(["\n".join(group) for group in groups]), strict=True):
            ends = [*np.flatnonzero(ids == self._newline).tolist(), len(ids)]
            starts = [0, *(end + 1 for end in ends[:-1])]
            self._ids.update((w, ids[a:b].tobytes()) for w, a, b in zip(group, starts, ends, strict=True))


def _is_han(text: str) -> bool:
    beginning = text[:_LOOKED_AT_CHARACTERS]
    return len(_HAN.findall(beginning)) > _MOST_HAN * len(beginning)


def in_common(pattern: str) -> str:
    """A known split pattern for text of ``COMMON`` characters, without classes of Unicode. None of them is a mark. It
    is for ``re.ASCII``, whose ``\\s`` lacks the wide space.
    """
    pattern = pattern.replace(r"[\p{L}\p{M}&&[^\p{Han}]]", f"[{_LETTERS}]").replace(r"\p{M}", "")
    pattern = pattern.replace(r"\p{Han}", f"[{_COMMON_HAN}]")
    parts = re.split(r"(\[[^\]]*\])", pattern)  # within brackets and outside, in turn
    for number, part in enumerate(parts):
        for name, characters in (("p{L}", _LETTERS + _COMMON_HAN), ("p{N}", "0-9"), ("s", r"\s\u3000")):
            part = part.replace("\\" + name, characters if number % 2 else f"[{characters}]")
        parts[number] = part.replace(r"\S", r"[^\s\u3000]")
    return "".join(parts)


def load_words(made_of: dict[str, Any], encode: Encode) -> WordCache | None:
    """The word cache for a tokenizer (the content of tokenizer.json); None where it does not encode word by word."""
    pattern = split_pattern(made_of)
    if pattern is None or made_of["model"]["type"] != "BPE" or made_of["model"].get("dropout"):
        return None
    (newline,) = encode(["\n"])
    if len(newline) != 1:
        return None
    added = [token["content"] for token in made_of["added_tokens"] if not token["special"]]
    whole = any(made_of["model"].get(key) for key in _WHOLE_WORDS)
    apart = None if whole else find_apart_pairs(tuple(made_of["model"]["vocab"]))
    return WordCache(pattern, added, int(newline[0]), encode, apart=apart)
