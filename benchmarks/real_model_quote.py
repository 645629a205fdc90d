"""One reading for two questions: the loss at every position of a text, and then what the model can quote from it.

The text is read as it is. After it come ``QUESTIONS`` beginnings of passages from it, each with the words that follow
there, and the model is asked for those words. So one pass gives the loss by position and 16 answers, where a text, a
prompt of pairs and a prompt of needles take three. The passages lie at all depths, in random order. How much of an
answer a model guesses without the text is read too, from the same questions alone: a few hundred tokens.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from ropewalk.core.seed import stream
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item
from ropewalk.evaluate.loss_by_position import PositionLoss

QUESTIONS, CUE_TOKENS, ANSWER_TOKENS = 16, 16, 8
_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Quotation:
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
        return self.positions + QUESTIONS


def ask_for_quotations(
    document: Int64[np.ndarray, "tokens"],  # noqa: F821 - an axis
    tokenizer: Tokenizer,
    *,
    base_tokens: int,
    number: int,
) -> Quotation:
    """``document`` without its last tokens, whose room the questions take; ``number`` is the text's, for the draw."""
    between = tokenizer.encode_inside(_BETWEEN)
    question = len(between) + CUE_TOKENS + ANSWER_TOKENS
    text = document[: len(document) - QUESTIONS * question]
    random = stream("quotation", number, len(document))
    room = (len(text) - CUE_TOKENS - ANSWER_TOKENS) / QUESTIONS
    begins = ((np.arange(QUESTIONS) + random.random(QUESTIONS)) * room).astype(int)[random.permutation(QUESTIONS)]
    loss = PositionLoss([document], base_tokens, len(document) // base_tokens)
    borders = [*loss.borders[:-1], len(text)]
    assert borders[-2] < len(text), "the questions take a part of the last group"
    # QUESTIONS x [question] -> [QUESTIONS * question]
    asked = np.concatenate([part for at in begins for part in (between, text[at : at + CUE_TOKENS + ANSWER_TOKENS])])
    answers = np.full((QUESTIONS, question), -1)
    answers[:, -ANSWER_TOKENS:] = len(borders) - 1 + np.arange(QUESTIONS)[:, None]
    groups = loss.items[0].group[: len(text)]
    return Quotation(
        # [text] + [QUESTIONS * question] -> [document]
        Item(np.concatenate((text, asked)), np.concatenate((groups, answers.ravel()))),
        Item(asked, answers.ravel()),
        borders,
        (begins / len(text)).tolist(),
    )
