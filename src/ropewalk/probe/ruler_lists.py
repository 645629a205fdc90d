"""RULER's tasks that need the whole text: variable tracking, common words and frequent coded words."""

import math
import string
from itertools import pairwise

import numpy as np

from ropewalk.probe.haystack import count_words, refuse_length
from ropewalk.probe.prompt import Prompt
from ropewalk.probe.ruler_needles import NOISE
from ropewalk.probe.ruler_task import RulerSample, RulerTask
from ropewalk.probe.word_lists import LISTED_WORDS, SINGLE_WORDS

_HOPS = 4
_COMMON = 10
_SHORT_WORDS = 1200
"""Below 4Ki tokens RULER's lists have fewer repeats: 6 and 1 in place of 30 and 3. 1,450 words of a list are 4Ki tokens
where each digit is a token, and more words are elsewhere; 2Ki tokens are fewer than 1,000 words."""
_VT = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
_VT_QUESTION = "\nQuestion: Find all variables that are assigned the value {value} in the text above."
_VT_ANSWER = (  # "assgined" is the benchmark's own spelling
    " Answer: According to the chain(s) of variable assignment in the text above, "
    "{count} variables are assgined the value {value}, they are:"
)
_CWE = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n"
)
_CWE_QUESTION = "\nQuestion: What are the 10 most common words in the above list?"
_CWE_ANSWER = " Answer: The top 10 words that appear most often in the list are:"
_FWE = (
    "Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words. "
)
_FWE_QUESTION = (
    "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text? "
    "Answer: According to the coded text above, the three most frequently appeared words are:"
)


def make_variable_sample(spec: RulerTask, rng: np.random.Generator, *, words: int) -> RulerSample:
    """``vt``: one chain of four hops in noise, after a short example with names of three letters."""
    example = ""
    if spec.example:
        text, names, _ = _track(rng, letters=3, noise=min(15, max(3, words // 80)))
        example = f"{text} {' '.join(names)}\n\n\n"
    text, _, _ = _track(rng, letters=5, noise=0)
    fixed = count_words(example + text, "en") + _HOPS + 1
    noise = (words - fixed) // len(NOISE.split())
    if noise < 1:
        raise refuse_length("vt", words, fixed + len(NOISE.split()))
    text, names, depths = _track(rng, letters=5, noise=noise)
    return _close(example + text, [f" {name}" for name in names], depths, names)


def _track(rng: np.random.Generator, *, letters: int, noise: int) -> tuple[str, list[str], list[float]]:
    """The text up to the answers, the names of the chain, and the depth of each assignment."""
    names: dict[str, None] = {}
    while len(names) <= _HOPS:
        names["".join(string.ascii_uppercase[i] for i in rng.integers(26, size=letters))] = None
    chain, value = list(names), str(rng.integers(10_000, 99_999))
    facts = [
        f"VAR {chain[0]} = {value}",
        *(f"VAR {new} = VAR {old} " for old, new in pairwise(chain)),
    ]
    places = np.sort(rng.integers(0, noise + 1, size=len(facts)))
    context = " ".join(np.insert(np.array([f"{NOISE}\n"] * noise, dtype=object), places, facts).tolist())
    depths = [context.index(fact) / len(context) for fact in facts]
    text = _VT + context + (_VT_QUESTION + _VT_ANSWER).format(value=value, count=len(chain))
    return text, chain, depths


def make_common_words_sample(spec: RulerTask, rng: np.random.Generator, *, words: int) -> RulerSample:
    """``cwe``: ten words stand 30 times in a list, all others 3 times (6 and 1 below 4Ki tokens)."""
    short = words < _SHORT_WORDS
    example = ""
    if spec.example:
        text, names, _ = _list_words(
            rng, different=20 if short else 40, common=3 if short else 10, rare=1 if short else 3
        )
        example = f"{text}{_number(names)}\n"
    common, rare = (6, 1) if short else (30, 3)
    fixed = count_words(example + _CWE + _CWE_QUESTION + _CWE_ANSWER, "en") + 2 * _COMMON
    different = min(len(LISTED_WORDS), _COMMON + ((words - fixed) // 2 - _COMMON * common) // rare)
    if different <= _COMMON:
        raise refuse_length("cwe", words, fixed + 2 * (_COMMON * common + rare))
    text, names, depths = _list_words(rng, different=different, common=common, rare=rare)
    return _close(example + text, [f" {number + 1}. {name}" for number, name in enumerate(names)], depths, names)


def _number(names: list[str]) -> str:
    return "".join(f" {number + 1}. {name}" for number, name in enumerate(names))


def _list_words(
    rng: np.random.Generator, *, different: int, common: int, rare: int
) -> tuple[str, list[str], list[float]]:
    """The text up to the answers, the common words, and the depth of each one's first place in the list."""
    names = _draw_words(rng, different)
    repeats = [common] * _COMMON + [rare] * (different - _COMMON)
    listed = [names[i] for i in rng.permutation(np.repeat(np.arange(different), repeats))]
    depths = [listed.index(name) / len(listed) for name in names[:_COMMON]]
    return _CWE + _number(listed)[1:] + _CWE_QUESTION + _CWE_ANSWER, names[:_COMMON], depths


def _draw_words(rng: np.random.Generator, different: int) -> list[str]:
    """Single words as far as they go, as in RULER's lists; two written together, of three or four tokens, beyond."""
    single = len(SINGLE_WORDS)
    first = rng.permutation(single)[:different]
    more = single + rng.permutation(len(LISTED_WORDS) - single)[: different - len(first)]
    # [first], [more] -> [different], shuffled: the ten common words must not be told by their kind
    return [LISTED_WORDS[i] for i in rng.permutation(np.concatenate((first, more)))]


def make_frequent_words_sample(spec: RulerTask, rng: np.random.Generator, *, words: int) -> RulerSample:
    """``fwe``: coded words whose counts fall with the square of their rank; the first rank is dots."""
    fixed = count_words(_FWE + _FWE_QUESTION, "en") + 3
    room = words - fixed
    zeta = math.pi**2 / 6  # of 2
    count = np.zeros(1, dtype=np.int64)
    for size in np.geomspace(max(room, 1), 2 * max(room, 1), 24).tolist():  # rounding down leaves words over
        ranks = np.arange(1, max(8, int(size) // 14) + 1)  # a fiftieth of the tokens
        more = (size * ranks**-2.0 / zeta).astype(np.int64)
        if more.sum() > room:
            break
        count = more[more > 0]
    if len(count) < 4 or len(set(count[:5].tolist())) < min(5, len(count)):
        raise refuse_length("fwe", words, fixed + 60)
    names: dict[str, None] = {"...": None}
    while len(names) < len(count):
        names["".join(string.ascii_lowercase[i] for i in rng.integers(26, size=6))] = None
    coded = list(names)
    text = [coded[i] for i in rng.permutation(np.repeat(np.arange(len(count)), count))]
    answers = coded[1:4]
    depths = [text.index(name) / len(text) for name in answers]
    return _close(_FWE + " ".join(text) + _FWE_QUESTION, [f" {name}" for name in answers], depths, answers)


def _close(text: str, answers: list[str], depths: list[float], references: list[str]) -> RulerSample:
    """The sample of a text and the answers, with a comma between two, so that each answer is a span of its own."""
    spans = []
    for number, answer in enumerate(answers):
        text += "," if number else ""
        spans.append((len(text), len(text) + len(answer)))
        text += answer
    return RulerSample(Prompt(text, tuple(spans), tuple(depths)), tuple(references))
