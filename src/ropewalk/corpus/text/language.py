"""Finds the language of a text: by its script where this is enough, which is exact, else by a small model (py3langid).

On technical text that is mostly Han, the small language models in use find Chinese in 77 to 100 % of cases, and the
script in all cases. Where most letters are Latin and some are not, the letters outside code, links and names decide
(language_words.py). Only a model can separate languages of one script. No method works on code, so a source must
declare that it is code. A text that is too short is *unsure*: it gets the most common language of its source, after the
whole source is read.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from copy import copy
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8, UInt32
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from ropewalk.corpus.text.language_words import language_words, without_latin

# First code point of each run, and the script of its letters. A script that several languages share has a name of its
# own; any other has the name of its language. Unicode defines which characters are letters; a combining mark is one.
_RUNS: tuple[tuple[int, str], ...] = (
    (0x0, "latin"), (0x300, "mark"), (0x370, "el"), (0x400, "cyrillic"), (0x530, "hy"), (0x590, "he"),
    (0x600, "arabic"), (0x700, "other"), (0x750, "arabic"), (0x780, "other"), (0x8A0, "arabic"), (0x900, "devanagari"),
    (0x980, "bengali"), (0xA00, "pa"), (0xA80, "gu"), (0xB00, "or"), (0xB80, "ta"), (0xC00, "te"), (0xC80, "kn"),
    (0xD00, "ml"), (0xD80, "si"), (0xE00, "th"), (0xE80, "lo"), (0xF00, "bo"), (0x1000, "my"), (0x10A0, "ka"),
    (0x1100, "ko"), (0x1200, "am"), (0x13A0, "other"), (0x1780, "km"), (0x1800, "mn"), (0x18B0, "other"),
    (0x1AB0, "mark"), (0x1B00, "other"), (0x1C80, "cyrillic"), (0x1C90, "ka"), (0x1CC0, "other"), (0x1D00, "latin"),
    (0x1DC0, "mark"), (0x1E00, "latin"), (0x1F00, "el"), (0x2000, "latin"), (0x2C00, "other"), (0x2C60, "latin"),
    (0x2C80, "other"), (0x2D00, "ka"), (0x2D30, "other"), (0x2D80, "am"), (0x2DE0, "cyrillic"), (0x2E00, "other"),
    (0x2E80, "han"), (0x3041, "kana"), (0x3100, "han"), (0x3130, "ko"), (0x3190, "han"), (0x31F0, "kana"),
    (0x3200, "other"), (0x3400, "han"), (0x4DC0, "other"), (0x4E00, "han"), (0xA000, "other"), (0xA640, "cyrillic"),
    (0xA6A0, "other"), (0xA720, "latin"), (0xA800, "other"), (0xA8E0, "devanagari"), (0xA900, "other"), (0xA960, "ko"),
    (0xA980, "other"), (0xA9E0, "my"), (0xAA00, "other"), (0xAA60, "my"), (0xAA80, "other"), (0xAB00, "am"),
    (0xAB30, "latin"), (0xAB70, "other"), (0xAC00, "ko"), (0xD800, "other"), (0xF900, "han"), (0xFB00, "latin"),
    (0xFB13, "hy"), (0xFB1D, "he"), (0xFB50, "arabic"), (0xFE00, ""), (0xFE20, "mark"), (0xFE70, "arabic"),
    (0xFF00, "latin"), (0xFF66, "kana"), (0xFFA0, "ko"), (0xFFE0, "other"), (0x1B000, "kana"), (0x1B170, "other"),
    (0x1D400, "latin"), (0x1D800, "other"), (0x20000, "han"), (0x323B0, "other"), (0xE0000, ""),
)  # fmt: skip
_SIGN, _SPACE = "", " "
_PARTS_WORDS = "་༌፡᠎"
"""Word separators of Tibetan, Ethiopic and Mongolian, where other scripts write a space."""
SCRIPTS = (_SIGN, _SPACE, "mark", *sorted({script for _, script in _RUNS} - {_SIGN, "mark"}))
_SIGNS, _SPACES, _HAN, _LATIN = (SCRIPTS.index(name) for name in (_SIGN, _SPACE, "han", "latin"))
_FIRST_SCRIPT = SCRIPTS.index("mark") + 1
_CODE_POINTS = 0x110000
_BLOCK_CHARACTERS = 1 << 20
# Weight of one letter of these scripts, in Latin letters.
_WEIGHT = {"han": 3, "kana": 3, "ko": 2}
_WEIGHTS: Int64[np.ndarray, "scripts"] = np.array(
    [0] * _FIRST_SCRIPT + [_WEIGHT.get(script, 1) for script in SCRIPTS[_FIRST_SCRIPT:]]
)
_KANA_TEXT = 0.05
"""Share of kana in Han and kana together. From this share on a text is Japanese, with any number of kanji."""
_SURE_HAN = 6
"""From this many letters of Han on, without kana, a text is Chinese. Fewer letters may be a Japanese title."""
# The languages of a script that a model has to separate. For Latin, the list holds the languages of other scripts.
_OF_SCRIPT: dict[str, frozenset[str]] = {
    "cyrillic": frozenset(["ru", "uk", "bg", "be", "sr", "mk", "kk", "ky", "mn", "tg", "tt", "ba"]),
    "arabic": frozenset(["ar", "fa", "ur", "ps", "ug", "ckb", "sd"]),
    "devanagari": frozenset(["hi", "mr", "ne", "sa"]),
    "bengali": frozenset(["bn", "as"]),
}
_NOT_LATIN = frozenset(
    [
        *("zh", "yue", "wuu", "lzh", "ja", "ko", "el", "grc", "he", "hbo", "yi", "th", "am", "ti", "hy", "ka", "km"),
        *("lo", "ta", "te", "ml", "kn", "gu", "pa", "or", "si", "dz", "bo", "my", "ary", "arz", "sdh", "uzs", "gom"),
        *("code", "none", "other"),
    ]
).union(*_OF_SCRIPT.values()) - {"sr"}
_ALONE = {"han": "zh", "cyrillic": "ru", "arabic": "ar", "devanagari": "hi", "bengali": "bn"}
"""Language of an unsure text by its script, where its source has no sure text of this script."""
UNSURE = frozenset(["none", "latin", *_ALONE])
"""Results of ``judge_language`` for an unsure text: its script, or ``none`` for a text without any letter."""
_KINDS = dict.fromkeys(["cmn", "yue", "wuu", "lzh", "nan", "hak", "gan", "hsn", "cdo", "cjy", "cpx", "mnp"], "zh")
_SURE_LATIN, _SURE_OTHER = 0.25, 0.5
"""Lowest probability at which a language of the model is accepted: among a hundred languages of Latin script, and among
a few of another script."""
_SAMPLES, _SAMPLE_CHARACTERS = 3, 400


def code_points(text: str) -> UInt32[np.ndarray, "characters"]:
    """The text as an array of code points. A lone surrogate keeps its number."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def blocks(text: str, *, overlap: int = 0) -> Iterator[str]:
    """Yield parts of a million characters (plus ``overlap``), so that arrays over a huge text stay small."""
    for start in range(0, max(1, len(text)), _BLOCK_CHARACTERS):
        yield text[start : start + _BLOCK_CHARACTERS + overlap]


@cache
def table_of(starts: tuple[int, ...], values: tuple[int, ...]) -> UInt8[np.ndarray, "code_points"]:
    """A value for every code point, given the first code point of each run. One look-up replaces ten search steps."""
    lengths = np.diff(np.array([*starts, _CODE_POINTS]))
    return np.repeat(np.array(values, dtype=np.uint8), lengths)


@cache
def script_table() -> UInt8[np.ndarray, "code_points"]:
    """For every code point its index in ``SCRIPTS``: the script of a letter, or the entry of signs or white space."""
    table = table_of(tuple(start for start, _ in _RUNS), tuple(SCRIPTS.index(script) for _, script in _RUNS)).copy()
    for code in range(_RUNS[-2][0]):  # no letters are defined above it yet
        kind = unicodedata.category(chr(code))
        if kind[0] not in "LM" and not (table[code] == _HAN and kind in ("Cn", "Nl")):  # Han grows, and 〇 is a number
            parts_words = kind[0] == "Z" or chr(code).isspace() or chr(code) in _PARTS_WORDS
            table[code] = _SPACES if parts_words else _SIGNS
    return table


def script_counts(text: str) -> tuple[int, float, int]:
    """``(letters, share of Han in the letters that show the language, characters that are not white space)``."""
    counts = _count_scripts(text)
    letters, han = int(counts[_FIRST_SCRIPT - 1 :].sum()), int(counts[_HAN])
    share = float(han > 0)
    if 0 < han < letters:
        said = _count_language(text, counts)
        share = float(said[_HAN] / max(1, said.sum()))
    return letters, share, len(text) - int(counts[_SPACES])


def _count_scripts(text: str) -> Int64[np.ndarray, "scripts"]:
    counts = np.zeros(len(SCRIPTS), dtype=np.int64)
    table = script_table()
    for block in blocks(text):
        counts += np.bincount(table.take(code_points(block)), minlength=len(SCRIPTS))
    return counts


def _count_language(text: str, counts: Int64[np.ndarray, "scripts"]) -> Int64[np.ndarray, "scripts"]:
    """Weight of each script in the decision on the language, in Latin letters. ``counts`` are of the whole text."""
    said, latin = counts, int(counts[_LATIN])
    if 0 < counts[_FIRST_SCRIPT:].sum() - latin < latin:
        for in_code in (False, True):  # where all text is code, its comments decide
            said = _count_scripts(language_words(text, in_code=in_code))
            if said[_FIRST_SCRIPT:].any():
                break
        else:
            said = counts
    weighed: Int64[np.ndarray, scripts] = said * _WEIGHTS
    return weighed


def judge_script(text: str) -> str:
    """``zh``, ``ja``, ``ko``, ``th`` ... or the name of a script that several languages share, such as ``latin``.

    The script with the most weight outside code, links and names decides. A letter of Han or kana has the weight of
    three Latin letters. The result is ``han`` where the text has so little Han that it may be Japanese, and ``none``
    where it has no letter.
    """
    counts = _count_scripts(text)
    if counts[_HAN] == counts[_FIRST_SCRIPT:].sum() >= _SURE_HAN:
        return "zh"
    said = dict(zip(SCRIPTS, _count_language(text, counts).tolist(), strict=True))
    if not any(said.values()):
        return "none"
    han, kana = said.pop("han"), said.pop("kana")
    if han + kana >= max(said.values()):
        if kana >= _KANA_TEXT * (han + kana):
            return "ja"
        return "zh" if counts[_HAN] >= _SURE_HAN else "han"
    return max(said, key=lambda name: said[name])


def judge_language(text: str) -> str:
    """The language of a text: that of its script; for Latin, Cyrillic, Arabic ... a model decides on three samples.

    The result is one of ``UNSURE`` where the text is not clear. It depends on the text alone.
    """
    script = judge_script(text)
    if script != "latin" and script not in _OF_SCRIPT:
        return script
    sample = _sample(text)
    found, share = _model(script).classify(sample if script == "latin" else without_latin(sample))
    is_sure = share >= (_SURE_LATIN if script == "latin" else _SURE_OTHER) and found != "zxx"
    return str(found) if is_sure else script


def settle_languages(documents: Mapping[str, int]) -> dict[str, str]:
    """The language of each unsure name in a source. ``documents`` holds the number of documents for each name.

    It is the most common language of the same script in the source. Where there is none, it is the default of the
    script (``zh``, ``ru`` ...); ``latin`` stays ``latin``.
    """
    sure = sorted((name for name in documents if name not in UNSURE), key=lambda name: (-documents[name], name))
    settled = {}
    for name in UNSURE.intersection(documents):
        fits = [language for language in sure if name == "none" or script_of(language) == name]
        settled[name] = fits[0] if fits else _ALONE.get(name, name)
    return settled


def script_of(language: str) -> str:
    """The script of a language where several languages share it; else the language itself."""
    kind = language_kind(language)
    if kind in ("zh", "ja"):
        return "han"
    shared = next((script for script, spoken in _OF_SCRIPT.items() if kind in spoken), kind)
    return "latin" if shared == kind and kind not in _NOT_LATIN else shared


def language_kind(language: str) -> str:
    """``zh`` for ``zh-Hant``, ``yue``, ``wuu``, ``lzh`` ..., ``en`` for ``en-GB``. Profiles and weights use it."""
    first = language.replace("_", "-").partition("-")[0].lower()
    return _KINDS.get(first, first)


@cache
def _whole_model() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _model(script: str) -> Any:
    """A model for the languages of one script only, which also returns a probability."""
    model = copy(_whole_model())
    known = set(model.labels)
    model.set_languages(known - _NOT_LATIN if script == "latin" else known & _OF_SCRIPT[script])
    model.nb_ptc = np.ascontiguousarray(model.nb_ptc)  # the model reads it by rows
    return model


def _sample(text: str) -> str:
    """Three short parts of a text, because a model reads 5 MB a second and needs only a paragraph."""
    if len(text) <= _SAMPLES * _SAMPLE_CHARACTERS:
        return text
    starts = np.linspace(0, len(text) - _SAMPLE_CHARACTERS, _SAMPLES).astype(int).tolist()
    return "\n".join(text[start : start + _SAMPLE_CHARACTERS] for start in starts)
