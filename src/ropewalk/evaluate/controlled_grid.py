"""Position x filler x length in one grid: the accuracy of the same samples in every cell, with intervals.

Every depth of a length has the same samples and the same number of words, so two cells of a row differ in the place of
the fact alone; two fillers differ in the text around it alone. Scores are ``grid/TASK/FILLER``, by length and by depth,
with the answer loss beside them. Cells of one row share their samples, so a row's interval counts samples, not prompts.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ropewalk.core.error import UserError
from ropewalk.core.progress import say_once
from ropewalk.core.seed import stream
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item
from ropewalk.evaluate.retrieval import Retrieval, fit_context
from ropewalk.probe.grid_prompt import FillerName, GridCell, GridTaskName, make_grid_prompt
from ropewalk.probe.prompt import Prompt
from ropewalk.recipe.grid import GridSpec

GRID = "grid/"
"""Begins the tasks of its accuracies."""


def plan_grid(
    spec: GridSpec, tokenizer: Tokenizer, *, lengths: Sequence[int], depths: int, seed: int
) -> list[Retrieval]:
    """A measurement for each task and filler, at each of ``lengths`` tokens and in the middle of each of ``depths``.

    A length that is too short for a task is left out with a message.
    """
    planned = []
    for task in spec.tasks:
        for filler in spec.fillers:
            found = _Prompts(spec, task, filler, tokenizer, seed)
            for tokens in lengths:
                try:
                    found.add(tokens, depths)
                except UserError as error:
                    say_once(f"{found.name} is not measured at {tokens} tokens: {error.what}")
            if found.items:
                context, depth, sample = (np.array(each) for each in (found.context, found.depth, found.sample))
                planned.append(Retrieval(found.name, spec.language, found.items, context, depth, depths, sample))
    return planned


class _Prompts:
    """The prompts of one task and filler, length after length; one answer each."""

    def __init__(self, spec: GridSpec, task: GridTaskName, filler: FillerName, tokenizer: Tokenizer, seed: int) -> None:
        self._spec, self._task, self._filler, self._tokenizer, self._seed = spec, task, filler, tokenizer, seed
        self.name = f"{GRID}{task}/{filler}" + ("" if spec.language == "en" else f"_{spec.language}")
        self.items: list[Item] = []
        self.context: list[int] = []
        self.depth: list[float] = []
        self.sample: list[int] = []

    def add(self, context_tokens: int, depths: int) -> None:
        """Write the prompts of one length; all depths of a sample have as many words as fit at each of them."""
        words = most = 2 * context_tokens
        middles = [(number + 0.5) / depths for number in range(depths)]
        first = max(self.sample, default=-1) + 1
        for number in range(-1, self._spec.prompts):  # the first one only gives the ratio of words to tokens
            places = middles if number >= 0 else middles[:1]
            makes = [self._write(number, middle, context_tokens) for middle in places]
            written, size = fit_context(makes, self._tokenizer, context_tokens=context_tokens, words=words)
            longest = max(len(tokens) for tokens, *_ in written)
            words = min(most, size * context_tokens // longest)
            if number < 0:
                continue
            for (tokens, asked, _), middle in zip(written, middles, strict=True):
                self.items.append(Item(tokens, np.where(asked >= 0, len(self.depth), -1)))
                self.context.append(context_tokens)
                self.depth.append(middle)
                self.sample.append(first + number)

    def _write(self, number: int, depth: float, context_tokens: int) -> Callable[[int], Prompt]:
        """The prompt of a sample with its fact at ``depth``, as a function of its words."""
        cell = GridCell(self._task, self._filler, depth, self._spec.language)
        # Without filler and depth in the stream's name: every cell has the same facts.
        purpose = ("evaluate", GRID, self._task, context_tokens, self._seed, number)
        return lambda words: make_grid_prompt(cell, stream(*purpose), words=words)
