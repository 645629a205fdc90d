"""Plain sentences as a haystack, and functions that hide facts in it.

The sentences contain no answer to any question. A length is in words, for Chinese in characters. It is never exceeded,
so a prompt can grow word by word up to a token budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ropewalk.core.error import UserError
from ropewalk.probe.prompt import Language, Prompt

_SUBJECTS = """
the old miller|a tired clerk|our neighbour|the youngest sister|some fisherman|the night watchman|a visitor from afar
the choir|the retired captain|a small grey cat|the gardener|every pupil|the baker's wife|one of the twins|the postman
the new teacher|a flock of geese|the carpenter|nobody in the street|the train conductor
"""
_VERBS = """
walked slowly past|often spoke about|forgot to look at|painted a picture of|waited all morning near|returned twice to
complained about|wrote a short note on|was thinking of|had never liked|pointed toward|slept beside|told a story about
swept the path to|asked the way to|dreamed of|stood in front of|took a photograph of|kept away from|sang quietly near
"""
_OBJECTS = """
the stone bridge|the empty market|the yellow house|a row of poplars|the frozen pond|the library steps|the second gate
the broken fountain|the harbour wall|a pile of firewood|the wheat field|the blue door|the railway station|the orchard
the hill behind the church|the river bank|the long staircase|the garden shed|the bakery window|the village green
"""
_CHINESE_SUBJECTS = """
老磨坊主|一个疲倦的职员|我们的邻居|最小的妹妹|有个渔夫|守夜人|海边来的客人|合唱队|退休的船长|一只小灰猫|园丁|每个学生|面包师的妻子|双胞胎中的一个
邮递员|新来的老师|一群鹅|木匠|街上的人|列车员
"""
_CHINESE_VERBS = """
慢慢走过|常常谈起|忘了看一眼|画过一次|整个早晨都在等着看|又回到|抱怨起|写下几句话，说的是|一直想着|从来不喜欢|指了指|梦见了|讲了个故事，说的是
扫干净了通往那里的路，那里是|打听怎么去|站着望了望|拍下了|绕开了|轻声唱起|路过
"""
_CHINESE_OBJECTS = """
石桥|空荡荡的集市|黄房子|一排杨树|结冰的池塘|图书馆的台阶|第二道门|坏了的喷泉|港口的围墙|一堆柴火|麦田|蓝色的门|火车站|果园|教堂后面的小山
河岸|长长的楼梯|花园里的棚子|面包店的橱窗|村里的草地
"""


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence to hide and its place: ``depth`` is the share of the haystack before it, None for anywhere."""

    text: str
    depth: float | None = None


def split_list(text: str) -> tuple[str, ...]:
    """The entries of a list that is separated by | and line breaks."""
    return tuple(entry.strip() for line in text.strip().splitlines() for entry in line.split("|"))


_PARTS: dict[Language, tuple[tuple[str, ...], ...]] = {
    "en": (split_list(_SUBJECTS), split_list(_VERBS), split_list(_OBJECTS)),
    "zh": (split_list(_CHINESE_SUBJECTS), split_list(_CHINESE_VERBS), split_list(_CHINESE_OBJECTS)),
}


def count_words(text: str, language: Language) -> int:
    """Words between spaces; for Chinese, characters that are not space."""
    return len(text.split()) if language == "en" else sum(not character.isspace() for character in text)


def write_sentences(language: Language, rng: np.random.Generator, *, words: int) -> list[str]:
    """Sentences of at most ``words`` words in total."""
    sentences: list[str] = []
    used = 0
    while True:
        subject, verb, place = (parts[int(rng.integers(len(parts)))] for parts in _PARTS[language])
        sentence = f"{subject.capitalize()} {verb} {place}." if language == "en" else f"{subject}{verb}{place}。"
        used += count_words(sentence, language)
        if used > words:
            return sentences
        sentences.append(sentence)


def hide_facts(sentences: Sequence[str], facts: Sequence[Fact], rng: np.random.Generator) -> tuple[str, list[float]]:
    """The sentences with each fact put between two of them, in one line, and the facts' depths in the result.

    Each fact goes to the border between sentences that is nearest to its depth, counted in characters.
    """
    separator = "" if sentences and sentences[0][-1] == "。" else " "
    borders = np.cumsum([0, *(len(sentence) + len(separator) for sentence in sentences)])
    slots: list[list[int]] = [[] for _ in borders]
    for number, fact in enumerate(facts):
        depth = fact.depth if fact.depth is not None else float(rng.random())
        slots[int(np.abs(borders - depth * borders[-1]).argmin())].append(number)
    pieces: list[str] = []
    begins = [0] * len(facts)
    position = 0
    for slot, sentence in zip(slots, [*sentences, ""], strict=True):
        for number in slot:
            begins[number] = position
            pieces.append(facts[number].text)
            position += len(facts[number].text) + len(separator)
        if sentence:
            pieces.append(sentence)
            position += len(sentence) + len(separator)
    text = separator.join(pieces)
    return text, [begin / max(len(text), 1) for begin in begins]


def close_prompt(context: str, question: str, answers: Sequence[tuple[str, str, float]]) -> Prompt:
    """Context and question, then for each answer the text before it, the answer, and the depth of its fact."""
    text, spans = context + question, []
    for before, answer, _ in answers:
        text += before
        spans.append((len(text), len(text) + len(answer)))
        text += answer
    return Prompt(text, tuple(spans), tuple(depth for _, _, depth in answers))


def refuse_length(kind: str, words: int, needed: int) -> UserError:
    """The error for a prompt that is too short for its facts and question."""
    return UserError(
        f"a {kind} prompt of {words} words is too short for its facts and question",
        where=f"probe {kind}",
        why=f"they need {needed} words (characters in Chinese)",
        fix=f"words={needed} or more",
    )
