"""The language of a text: by its script where that tells, which is exact, else by a small model (py3langid).

On majority-Han technical text the small language models in use find Chinese in 77 to 100 % of cases, the script in all.
Among languages of one script only a model can tell, and on code nobody: a source of code says what it is.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from jaxtyping import Int64, UInt8, UInt32

# First code point of each run and the script it belongs to; "" is no letter of any.
_RUNS: tuple[tuple[int, str], ...] = (
    (0x0000, ""), (0x0041, "latin"), (0x005B, ""), (0x0061, "latin"), (0x007B, ""), (0x00C0, "latin"), (0x0250, ""),
    (0x0370, "el"), (0x0400, "ru"), (0x0530, ""), (0x0590, "he"), (0x0600, "ar"), (0x0780, ""), (0x0900, "hi"),
    (0x0980, ""), (0x0E00, "th"), (0x0E80, ""), (0x1100, "ko"), (0x1200, ""), (0x1E00, "latin"), (0x1F00, "el"),
    (0x2000, ""), (0x3041, "kana"), (0x3100, ""), (0x31F0, "kana"), (0x3200, ""), (0x3400, "han"), (0x4DC0, ""),
    (0x4E00, "han"), (0xA000, ""), (0xAC00, "ko"), (0xD7B0, ""), (0xF900, "han"), (0xFB00, ""), (0x20000, "han"),
    (0x323B0, ""),
)  # fmt: skip
_STARTS = np.array([start for start, _ in _RUNS], dtype=np.uint32)
SCRIPTS = ("", *sorted({script for _, script in _RUNS if script}))
_SCRIPT = np.array([SCRIPTS.index(script) for _, script in _RUNS], dtype=np.uint8)
_CODE_POINTS = 0x110000
_BLOCK_CHARACTERS = 1 << 20
_HAN_TEXT = 0.5
_KANA_TEXT = 0.05
# What a model has to tell apart: scripts that many languages share. Its other answers for them are taken as unsure.
_OF_SCRIPT: dict[str, frozenset[str]] = {
    "ru": frozenset(["ru", "uk", "bg", "be", "sr", "mk", "kk", "ky", "mn", "tg", "tt", "ba"]),
    "ar": frozenset(["ar", "fa", "ur", "ps", "ug", "ckb", "sd"]),
    "hi": frozenset(["hi", "mr", "ne", "sa"]),
}
_NOT_LATIN = frozenset(
    [
        "zh",
        "ja",
        "ko",
        "el",
        "he",
        "th",
        "am",
        "hy",
        "ka",
        "km",
        "lo",
        "ta",
        "te",
        "ml",
        "kn",
        "gu",
        "pa",
        "or",
        "si",
        "bn",
        "as",
        "dz",
        "bo",
        "my",
    ]
).union(*_OF_SCRIPT.values())
_SAMPLES, _SAMPLE_CHARACTERS = 3, 400


def code_points(text: str) -> UInt32[np.ndarray, "characters"]:
    """The text as an array of code points; a lone surrogate keeps its number."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def script_shares(text: str) -> dict[str, float]:
    """Share of each script among the letters of ``text``; empty where there is no letter."""
    counts = _count_scripts(text)[1:]
    total = int(counts.sum())
    return {name: int(count) / total for name, count in zip(SCRIPTS[1:], counts, strict=True) if count}


def script_counts(text: str) -> tuple[int, int, int]:
    """(letters, those of them in Han, characters that are not white space)."""
    counts = _count_scripts(text)
    spaces = sum(map(text.count, (" ", "\n", "\t", "\u3000")))
    return int(counts[1:].sum()), int(counts[SCRIPTS.index("han")]), len(text) - spaces


def blocks(text: str, *, overlap: int = 0) -> Iterator[str]:
    """A text in parts of a million characters, so that arrays over a huge one stay small."""
    for start in range(0, max(1, len(text)), _BLOCK_CHARACTERS):
        yield text[start : start + _BLOCK_CHARACTERS + overlap]


@cache
def table_of(starts: tuple[int, ...], values: tuple[int, ...]) -> UInt8[np.ndarray, "code_points"]:
    """A value for every code point, from the first one of each run: one look-up where a search takes ten steps."""
    lengths = np.diff(np.array([*starts, _CODE_POINTS]))
    return np.repeat(np.array(values, dtype=np.uint8), lengths)


def _count_scripts(text: str) -> Int64[np.ndarray, "scripts"]:
    counts = np.zeros(len(SCRIPTS), dtype=np.int64)
    table = table_of(tuple(_STARTS.tolist()), tuple(_SCRIPT.tolist()))
    for block in blocks(text):
        counts += np.bincount(table.take(code_points(block)), minlength=len(SCRIPTS))
    return counts


def judge_script(text: str) -> str:
    """``zh``, ``ja``, ``ko``, ``ru`` ... by the script of most letters; ``latin`` for what only a model could part.

    A letter of Han carries about as much as two of Latin, so half the letters suffice for ``zh``; a text with a
    twentieth of kana is Japanese however many kanji it has. ``none`` where there is no letter.
    """
    shares = script_shares(text)
    if not shares:
        return "none"
    han, kana = shares.get("han", 0.0), shares.get("kana", 0.0)
    if kana >= _KANA_TEXT and han + kana >= _HAN_TEXT:
        return "ja"
    if han >= _HAN_TEXT:
        return "zh"
    most = max(shares, key=lambda name: shares[name])
    return {"han": "zh", "kana": "ja"}.get(most, most)


def judge_language(text: str) -> str:
    """The script's language; among Latin, Cyrillic, Arabic and Devanagari ones, what a model says of three samples.

    ``latin`` (or the script's commonest language) stays where the model names a language of another script.
    """
    script = judge_script(text)
    if script != "latin" and script not in _OF_SCRIPT:
        return script
    from py3langid import classify

    found = str(classify(_sample(text))[0])
    fits = found not in _NOT_LATIN if script == "latin" else found in _OF_SCRIPT[script]
    return found if fits else script


def _sample(text: str) -> str:
    """Three short pieces of a text; a model reads 5 MB a second and needs a paragraph."""
    if len(text) <= _SAMPLES * _SAMPLE_CHARACTERS:
        return text
    starts = np.linspace(0, len(text) - _SAMPLE_CHARACTERS, _SAMPLES).astype(int).tolist()
    return "\n".join(text[start : start + _SAMPLE_CHARACTERS] for start in starts)
