"""One reading for four figures: the loss at every position of a text, and answers about facts that are hidden in it.

Into the text, between its paragraphs, come sentences with the secret numbers of towns (needles) and the colours of
things (keys with their values), at all depths. After the text the same sentences begin again, each up to its number or
colour, which is asked; before them the beginnings of passages of the text itself, each of which is to be continued
(quotations). So one pass gives the loss by position and 80 answers, where a text, a prompt of pairs and a prompt of
needles take three. What a model guesses is read from the questions alone: 1,130 tokens.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.core.seed import stream
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item
from ropewalk.evaluate.loss_by_position import PositionLoss
from ropewalk.probe.haystack import split_list
from ropewalk.probe.vocabulary import VOCABULARIES

KINDS = {"quotation": 16, "needle": 32, "key_value": 32}
"""The kinds of answers in their order, and how many of each."""
CUE_TOKENS, ANSWER_TOKENS = 16, 8
_TOWNS = split_list("""
Lisbon|Oslo|Cairo|Lima|Seoul|Quito|Dakar|Hanoi|Prague|Athens|Dublin|Havana|Nairobi|Tunis|Riga|Ankara
Bogota|Manila|Geneva|Kyoto|Tbilisi|Valencia|Bergen|Cusco|Marseille|Toronto|Adelaide|Zagreb|Bombay|Denver|Panama|Sofia
""")
_BETWEEN = "\n\n"
Ids = Int64[np.ndarray, "tokens"]


@dataclass(frozen=True)
class Asked:
    """``whole`` is the text with the questions, ``alone`` the questions; groups of positions come before the answers'.

    ``borders`` are the positions at which the groups of the text begin and end, ``depths`` the answers' places.
    """

    whole: Item
    alone: Item
    borders: list[int]
    depths: list[float]

    @property
    def positions(self) -> int:
        return len(self.borders) - 1

    @property
    def groups(self) -> int:
        return self.positions + len(self.depths)


def ask_about(document: Ids, tokenizer: Tokenizer, *, base_tokens: int, number: int) -> Asked:
    """``document`` without its last tokens, whose room the facts and questions take; ``number`` is the text's, for the
    draw. The sentences of facts have no loss."""
    random = stream("questions", number, len(document))
    facts = [
        (tokenizer.encode_inside(_BETWEEN + cue), tokenizer.encode_inside(answer)) for cue, answer in _draw(random)
    ]
    between, end = (tokenizer.encode_inside(each) for each in (_BETWEEN, "."))
    taken = KINDS["quotation"] * (len(between) + CUE_TOKENS + ANSWER_TOKENS) + len(facts) * len(end)
    text = document[: len(document) - 2 * sum(len(cue) + len(answer) for cue, answer in facts) - taken]
    places = _choose_places(text, tokenizer, random)
    begins = _choose_passages(len(text), sorted(places), random)
    passages = [text[at : at + CUE_TOKENS + ANSWER_TOKENS] for at in begins]
    quotations = [(np.concatenate((between, each[:CUE_TOKENS])), each[CUE_TOKENS:]) for each in passages]
    # [cue] + [answer] + [end] for each fact
    told, group = _hide(text, [np.concatenate((*each, end)) for each in facts], places)
    loss = PositionLoss([document], base_tokens, len(document) // base_tokens)
    borders = [*loss.borders[:-1], len(told)]
    assert borders[-2] < len(told), "the questions take a part of the last group"
    group[group >= 0] = loss.items[0].group[: len(told)][group >= 0]
    order = [*range(len(quotations)), *(len(quotations) + random.permutation(len(facts)))]
    asked = [(*(quotations + facts)[at], len(borders) - 1 + at) for at in order]
    # [cue] + [answer] for each question
    questions = np.concatenate([part for cue, answer, _ in asked for part in (cue, answer)])
    answers = np.concatenate([np.repeat([-1, own], [len(cue), len(answer)]) for cue, answer, own in asked])
    return Asked(
        Item(np.concatenate((told, questions)), np.concatenate((group, answers))),
        Item(questions, answers),
        borders,
        (np.array([*begins, *places]) / len(text)).tolist(),
    )


def _draw(random: np.random.Generator) -> list[tuple[str, str]]:
    """The facts as the beginning of a sentence and what is asked, needles first."""
    words = VOCABULARIES["en"]
    towns = [_TOWNS[at] for at in random.permutation(len(_TOWNS))[: KINDS["needle"]]]
    numbers = 1000 + random.choice(9000, len(towns), replace=False)
    things, colours = (
        [of[at] for at in random.permutation(len(of))[: KINDS["key_value"]]] for of in (words.keys, words.values)
    )
    needles = [(f"The secret number of {town} is", f" {each}") for town, each in zip(towns, numbers, strict=True)]
    return needles + [(f"The colour of the {each} is", f" {its}") for each, its in zip(things, colours, strict=True)]


def _choose_places(text: Ids, tokenizer: Tokenizer, random: np.random.Generator) -> list[int]:
    """For each fact the token before which it comes, a break between paragraphs: one in each stretch of the text."""
    names = {each: tokenizer.decode(np.array([each])) for each in np.unique(text).tolist()}
    breaks = np.array([at for at, (one, two) in enumerate(zip(text[:-1].tolist(), text[1:].tolist(), strict=True))
                       if names[one].startswith(_BETWEEN) or names[one] == names[two] == "\n"])  # fmt: skip
    count = KINDS["needle"] + KINDS["key_value"]
    wanted = (np.arange(count) + random.random(count)) * breaks[-1] / count
    found = breaks[np.searchsorted(breaks, wanted)]
    chosen: list[int] = found[random.permutation(count)].tolist()
    return chosen


def _choose_passages(tokens: int, places: list[int], random: np.random.Generator) -> list[int]:
    """Where each quoted passage begins, at all depths in random order; none has a fact within."""
    count, length = KINDS["quotation"], CUE_TOKENS + ANSWER_TOKENS
    begins = ((np.arange(count) + random.random(count)) * (tokens - 2 * length) / count).astype(int)
    chosen = begins[random.permutation(count)].tolist()
    for number in range(count):
        for place in places:
            if chosen[number] < place < chosen[number] + length:
                chosen[number] = place
    return [int(each) for each in chosen]


def _hide(text: Ids, facts: list[Ids], places: list[int]) -> tuple[Ids, Ids]:
    """The text with the facts, and 0 for each of its own tokens, -1 for theirs."""
    tokens, group, done = list[Ids](), list[Ids](), 0
    for at in np.argsort(places, kind="stable").tolist():
        tokens += [text[done : places[at]], facts[at]]
        group += [np.zeros(places[at] - done, dtype=np.int64), np.full(len(facts[at]), -1)]
        done = places[at]
    return np.concatenate([*tokens, text[done:]]), np.concatenate([*group, np.zeros(len(text) - done, dtype=np.int64)])
