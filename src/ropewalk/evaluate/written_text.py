"""What a model writes after each of many prompts, decoded: the part that all written tasks share."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item, pack_items
from ropewalk.model.greedy_writer import GreedyWriter, write_greedily

_WRITTEN_TOKENS = 16384
"""Tokens of the prompts that are continued together: each step reads all weights once for all of them."""


def write_texts(
    learner: GreedyWriter,
    prompts: Sequence[Int64[np.ndarray, "_"]],
    tokenizer: Tokenizer,
    *,
    most_tokens: int,
    is_done: Callable[[int, str], bool],
) -> list[str]:
    """The text after each prompt, at most ``most_tokens`` tokens. Every rank calls it.

    Writing ends at the end token too, and as soon as ``is_done(number of the prompt, text)``.
    """
    texts: list[str] = []
    # An item of each prompt, with its number as its only group.
    items = [Item(tokens, np.full(len(tokens), number)) for number, tokens in enumerate(prompts)]
    for row in pack_items(items, row_tokens=_WRITTEN_TOKENS):
        first = len(texts)

        def is_finished(number: int, tokens: list[int], first: int = first) -> bool:
            return tokens[-1] == tokenizer.eos_id or is_done(first + number, tokenizer.decode(tokens))

        written = write_greedily(learner, [item.tokens for item in row], most_tokens=most_tokens, finished=is_finished)
        texts += [tokenizer.decode(tokens) for tokens in written]
    return texts
