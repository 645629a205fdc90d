"""RULER's tasks as the benchmark measures them: a model writes text, and the references are searched in it.

The prompt and the tokens that may be written fill each length together. Writing ends at the end token, at the task's
number of tokens, or as soon as every reference is there: more text cannot change the score. The answers are read with
the prompts, so each task has an answer loss too (retrieval.py), and a right answer is not written token by token. The
effective length is RULER's: the largest one whose mean over the tasks is above what Llama 2 7B reaches at 4Ki.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ropewalk.core.error import UserError
from ropewalk.core.progress import say, say_once
from ropewalk.core.record import Score
from ropewalk.core.seed import stream
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.retrieval import Retrieval, encode_prompt
from ropewalk.evaluate.score import ShareOfTask, design_effect, mean_of_shares, wilson_of_prompts
from ropewalk.evaluate.written_text import WrittenText, write_texts
from ropewalk.model.greedy_writer import GreedyWriter
from ropewalk.model.open_model import open_model
from ropewalk.model.weights import Dtype
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.probe.kinds import make_ruler_sample, name_probe
from ropewalk.probe.ruler_task import RulerSample, RulerTask
from ropewalk.recipe.ruler import RulerSpec

TASK = "ruler/"


@dataclass(frozen=True)
class RulerPrompts:
    """The samples of one task at one length; ``items`` hold their answers, ``questions`` do not."""

    spec: RulerTask
    context_tokens: int
    samples: list[RulerSample]
    items: list[Item]

    @property
    def questions(self) -> list[Int64[np.ndarray, "_"]]:
        """The tokens that a model continues."""
        return [item.tokens[:begin] for item, begin in zip(self.items, self._begins, strict=True)]

    @property
    def answers(self) -> list[Int64[np.ndarray, "_"]]:
        """The right continuations: answers, and what stands between them."""
        return [item.tokens[begin:] for item, begin in zip(self.items, self._begins, strict=True)]

    @property
    def _begins(self) -> list[int]:
        return [int(np.argmax(item.group >= 0)) for item in self.items]

    def sum_answers(self, written: Sequence[WrittenText]) -> Sums:
        """The sums of each answer, as if the items had been read for themselves."""
        groups = 1 + max(int(item.group.max()) for item in self.items)
        table = np.zeros((3, groups))
        for item, begin, each in zip(self.items, self._begins, written, strict=True):
            counts = (group := item.group[begin:]) >= 0
            figures = np.stack((np.ones(len(group)), each.written.nll, each.written.correct))
            np.add.at(table.T, group[counts], figures[:, counts].T)
        return Sums(*table)


def plan_ruler(spec: RulerSpec, tokenizer: Tokenizer, *, lengths: Sequence[int], seed: int) -> list[RulerPrompts]:
    """The prompts of each task and length; a length that is too short for a task is left out with a message."""
    planned = []
    for task in spec.each_task:
        for tokens in lengths:
            try:
                planned.append(_write_samples(task, tokenizer, context_tokens=tokens, samples=spec.samples, seed=seed))
            except UserError as error:
                say_once(f"{TASK}{task.task} is not measured at {tokens} tokens: {error.what}")
    return planned


def _write_samples(
    task: RulerTask, tokenizer: Tokenizer, *, context_tokens: int, samples: int, seed: int
) -> RulerPrompts:
    words, found = context_tokens, RulerPrompts(task, context_tokens, [], [])
    for number in count():
        size = words
        while True:
            rng = stream("evaluate", TASK, task.task, context_tokens, seed, number)
            sample = make_ruler_sample(task, rng, words=size)
            tokens, asked = encode_prompt(sample.prompt, tokenizer)
            begin = int(np.argmax(asked >= 0))
            used = max(len(tokens), begin + task.generated_tokens)
            if used <= context_tokens:
                break
            size = min(size - 1, size * context_tokens // used)
        words = min(context_tokens, size * context_tokens // used)
        if not number:  # the first one only gives the ratio of words to tokens
            continue
        groups = sum(len(other.prompt.answers) for other in found.samples)
        found.samples.append(sample)
        found.items.append(Item(tokens, np.where(asked >= 0, asked + groups, -1)))
        if number == samples:
            return found
    raise AssertionError


def read_answers(planned: Sequence[RulerPrompts], *, depths: int) -> list[Retrieval]:
    """The same prompts with their answers, one measurement per task over all its lengths; ``measure_ruler`` sums it."""
    found = []
    for task in dict.fromkeys(each.spec for each in planned):
        items: list[Item] = []
        context: list[int] = []
        depth: list[float] = []
        for each in (each for each in planned if each.spec == task):
            items += [Item(it.tokens, np.where(it.group >= 0, it.group + len(context), -1)) for it in each.items]
            mine = [value for sample in each.samples for value in sample.prompt.depths]
            depth += mine
            context += [each.context_tokens] * len(mine)
        name = f"retrieval/{name_probe(task)}"
        found.append(Retrieval(name, "en", items, np.array(context), np.array(depth), depths))
    return found


def measure_ruler(
    folder: Path, planned: Sequence[RulerPrompts], tokenizer: Tokenizer, spec: RulerSpec, *, name: str, precision: Dtype
) -> tuple[list[Sums], list[Score]]:
    """``ruler/TASK`` at each length, ``ruler/mean`` over the tasks, and ``ruler/effective_length`` in tokens.

    Before them the sums of each of ``read_answers``, which come from the same reading. Every rank calls it; all read
    each prompt together.
    """
    learner = open_model(GreedyWriter, folder, dtype=precision)
    scores = []
    sums: dict[RulerTask, list[Sums]] = {}
    for each in planned:
        written = write_answers(learner, each, tokenizer)
        matched = [sample.match(found.text) for sample, found in zip(each.samples, written, strict=True)]
        sums.setdefault(each.spec, []).append(each.sum_answers(written))
        scores.append(_score(each, matched, model=name))
        if not rank_and_ranks()[0]:
            say(f"{name}: {scores[-1].task} at {each.context_tokens} tokens: {scores[-1].value:.1%}")
    return [_join(parts) for parts in sums.values()], [
        *scores,
        *summarize_ruler(scores, model=name, threshold=spec.threshold),
    ]


def _join(parts: Sequence[Sums]) -> Sums:
    fields = ([getattr(part, name) for part in parts] for name in ("count", "nll", "correct"))
    return Sums(*map(np.concatenate, fields))  # [_] of each length -> [groups]


def write_answers(learner: GreedyWriter, planned: RulerPrompts, tokenizer: Tokenizer) -> list[WrittenText]:
    """The model's text after each question, and its loss on the answers. Every rank calls it."""

    def is_done(number: int, text: str) -> bool:
        return planned.samples[number].match(text) == 1

    return write_texts(
        learner,
        planned.questions,
        tokenizer,
        most_tokens=planned.spec.generated_tokens,
        is_done=is_done,
        drafts=planned.answers,
    )


def _score(each: RulerPrompts, matched: Sequence[float], *, model: str) -> Score:
    count = np.array([1 if sample.any_reference else len(sample.references) for sample in each.samples], dtype=float)
    right = np.array(matched) * count
    interval, effect = wilson_of_prompts(right, count), design_effect(right, count)
    n, prompts = int(count.sum()), len(count)
    task = f"{TASK}{each.spec.task}"
    return Score(model, task, "string_match", each.context_tokens, None, "en", n, *interval, prompts, effect)


def summarize_ruler(scores: Sequence[Score], *, model: str, threshold: float) -> Iterator[Score]:
    """The mean over the tasks at each length, and the largest length whose mean is above ``threshold``; 0 if none is.

    The interval of the effective length holds the lengths whose mean may be above it.
    """
    means = []
    for tokens in sorted({score.context_tokens for score in scores}):
        mine = [score for score in scores if score.context_tokens == tokens]
        parts = [ShareOfTask(each.value, each.n, each.design_effect or 1.0, each.samples or 1) for each in mine]
        n, samples = sum(score.n for score in mine), sum(part.samples for part in parts)
        found = mean_of_shares(parts)
        means.append(Score(model, f"{TASK}mean", "string_match", tokens, None, "en", n, *found, samples))
    yield from means
    if means:
        value, low, high = (
            float(max((mean.context_tokens for mean in means if getattr(mean, end) > threshold), default=0))
            for end in ("value", "low", "high")
        )
        longest = means[-1]
        task = f"{TASK}effective_length"
        yield Score(
            model, task, "tokens", longest.context_tokens, None, "en", longest.n, value, low, high, longest.samples
        )
