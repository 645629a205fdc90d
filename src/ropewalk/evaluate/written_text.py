"""What a model writes after each of many prompts, decoded: the part that all written tasks share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item, pack_items
from ropewalk.model.greedy_writer import GreedyWriter, Tokens, Written, write_greedily

_WRITTEN_TOKENS = 16384
"""Tokens of the prompts that are continued together: each step reads all weights once for all of them."""


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A text, and its tokens with what the model makes of the draft."""

    text: str
    written: Written


def write_texts(
    learner: GreedyWriter,
    prompts: Sequence[Tokens],
    tokenizer: Tokenizer,
    *,
    most_tokens: int,
    is_done: Callable[[int, str], bool],
    drafts: Sequence[Tokens] | None = None,
) -> list[WrittenText]:
    """The text after each prompt, at most ``most_tokens`` tokens. Every rank calls it.

    Writing ends at the end token too, and as soon as ``is_done(number of the prompt, text)``. ``drafts`` are right
    continuations (model/greedy_writer.py).
    """
    texts: list[WrittenText] = []
    drafts = drafts if drafts is not None else [prompt[:0] for prompt in prompts]
    # An item of each prompt with its draft; the prompt's tokens are those without a group.
    items = [
        # [_] + [draft] -> [tokens]
        Item(np.concatenate((prompt, draft)), np.repeat([-1, 0], [len(prompt), len(draft)]))
        for prompt, draft in zip(prompts, drafts, strict=True)
    ]
    for sequence in pack_items(items, sequence_tokens=_WRITTEN_TOKENS):
        first = len(texts)

        def is_finished(number: int, tokens: list[int], first: int = first) -> bool:
            return tokens[-1] == tokenizer.eos_id or is_done(first + number, tokenizer.decode(tokens))

        written = write_greedily(
            learner,
            [item.tokens[item.group < 0] for item in sequence],
            most_tokens=most_tokens,
            finished=is_finished,
            drafts=[item.tokens[item.group >= 0] for item in sequence],
        )
        texts += [WrittenText(tokenizer.decode(each.tokens), each) for each in written]
    return texts
