"""Retrieval by length and depth, for any probe: whether all tokens of the answer are the likeliest ones.

Answers are teacher-forced: the prompt holds the right answers, and one forward pass decides for each whether all its
tokens would have been chosen. No text is generated, and a prompt with eight questions gives eight answers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ropewalk.core.error import UserError
from ropewalk.core.progress import say_once
from ropewalk.core.record import Document, Score
from ropewalk.core.seed import stream
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.score import design_effect, ratio, wilson_of_prompts
from ropewalk.probe.kinds import Probe, make_prompt, name_probe
from ropewalk.probe.prompt import Language, Prompt

ANSWER_LOSS = "answer_loss/"
"""Begins the tasks of an answer's loss; those of its accuracy begin with ``retrieval/``."""


@dataclass(frozen=True)
class Retrieval:
    """The prompts of a probe; answers are numbered over all prompts, one group each."""

    task: str
    language: Language
    items: list[Item]
    context_tokens: Int64[np.ndarray, "answers"]
    """The length in tokens at which each answer was requested."""
    depth: Float64[np.ndarray, "answers"]
    bins: int
    sample: Int64[np.ndarray, "answers"] | None = None
    """The sample that each answer belongs to, where several prompts of a length hold the same facts; None: its
    prompt."""

    @property
    def name(self) -> str:
        return self.task

    @property
    def groups(self) -> int:
        return len(self.depth)

    @property
    def by_length(self) -> list[list[Item]]:
        """The prompts of each length, in order."""
        length = [int(self.context_tokens[item.group.max()]) for item in self.items]
        return [
            [item for item, its in zip(self.items, length, strict=True) if its == tokens]
            for tokens in sorted(set(length))
        ]

    def first(self, prompts: int) -> "Retrieval":
        """The same measurement with only the first ``prompts`` prompts of each length."""
        items: list[Item] = []
        kept: list[int] = []
        for item in (item for texts in self.by_length for item in texts[:prompts]):
            mine = np.unique(item.group[item.group >= 0])  # consecutive numbers
            items.append(Item(item.tokens, np.where(item.group >= 0, item.group - mine[0] + len(kept), -1)))
            kept += mine.tolist()
        sample = None if self.sample is None else self.sample[kept]
        context, depth = self.context_tokens[kept], self.depth[kept]
        return replace(self, items=items, context_tokens=context, depth=depth, sample=sample)

    def score(self, sums: Sums, *, model: str) -> Iterator[Score]:
        """Accuracy and answer loss at each length, and at each length and depth; a depth is the middle of its bin.

        ``answer_loss/PROBE`` is in nats per token of the answers. It tells two models apart that both answer nothing.
        """
        bins = np.minimum((self.depth * self.bins).astype(int), self.bins - 1)
        for tokens in np.unique(self.context_tokens).tolist():
            here = self.context_tokens == tokens
            yield from self._record(sums, here, model=model, context_tokens=tokens, depth=None)
            for number in np.unique(bins[here]).tolist():
                depth = (number + 0.5) / self.bins
                asked = here & (bins == number)
                yield from self._record(sums, asked, model=model, context_tokens=tokens, depth=depth)

    @property
    def _sample(self) -> Int64[np.ndarray, "answers"]:
        """The number of each answer's sample: if not given, the index of its prompt."""
        if self.sample is not None:
            return self.sample
        prompt = np.empty(self.groups, dtype=np.int64)
        for number, item in enumerate(self.items):
            prompt[item.group[item.group >= 0]] = number
        return prompt

    def _record(
        self, sums: Sums, asked: Bool[np.ndarray, "answers"], *, model: str, context_tokens: int, depth: float | None
    ) -> Iterator[Score]:
        """Answers of one prompt share its filler and its other facts, so they are not independent samples."""
        sample = self._sample[asked]
        count, correct, tokens, nll = (
            np.bincount(sample, weights=values[asked])
            for values in (np.ones(self.groups), sums.correct == sums.count, sums.count, sums.nll)
        )
        n, prompts = int(count.sum()), int((count > 0).sum())
        where = context_tokens, depth, self.language, n
        together = self.sample is not None
        effect = design_effect(correct, count, together=together)
        interval = wilson_of_prompts(correct, count, together=together)
        yield Score(model, self.task, "accuracy", *where, *interval, prompts, effect)
        loss = ratio(nll[count > 0], tokens[count > 0])
        task = ANSWER_LOSS + self.task.removeprefix("retrieval/")
        yield Score(model, task, "nats", *where, *loss.interval, prompts)


def plan_retrieval(
    probe: Probe, tokenizer: Tokenizer, *, lengths: list[int], answers: int, depths: int, seed: int
) -> Retrieval | None:
    """Prompts of nearly each of ``lengths`` tokens until each length has ``answers`` answers, in ``depths`` bins.

    A length that is too short for the probe is skipped with a message; None if all are. Seeds never coincide with those
    of training, because each stream is named after its purpose.
    """
    language: Language = getattr(probe, "language", "en")
    task = f"retrieval/{name_probe(probe)}"
    items: list[Item] = []
    context: list[int] = []
    depth: list[float] = []
    for tokens in lengths:
        end = len(depth) + answers
        purpose = ("evaluate", task, tokens, seed)
        try:
            for text, asked, depths_here in _write_prompts(probe, tokenizer, context_tokens=tokens, purpose=purpose):
                items.append(Item(text, np.where(asked >= 0, asked + len(depth), -1)))
                depth += depths_here
                context += [tokens] * len(depths_here)
                if len(depth) >= end:
                    break
        except UserError as error:
            say_once(f"{task} is not measured at {tokens} tokens: {error.what}")
    return Retrieval(task, language, items, np.array(context), np.array(depth), depths) if items else None


def _write_prompts(
    probe: Probe, tokenizer: Tokenizer, *, context_tokens: int, purpose: tuple[str | int, ...]
) -> Iterator[tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"], tuple[float, ...]]]:
    """An endless iterator of prompts, each of at most ``context_tokens`` tokens and not much less.

    Yields tokens, the index of the answer that each token belongs to (or -1), and the answers' depths.
    """
    words = most = 2 * context_tokens  # two Chinese characters may share a token
    for number in count():

        def make(words: int, number: int = number) -> Prompt:
            return make_prompt(probe, stream(*purpose, number), words=words)

        ((tokens, asked, prompt),), size = fit_context([make], tokenizer, context_tokens=context_tokens, words=words)
        words = min(most, size * context_tokens // len(tokens))
        if number:  # the first one only gives the ratio of words to tokens
            yield tokens, asked, prompt.depths


def fit_context(
    makes: Sequence[Callable[[int], Prompt]], tokenizer: Tokenizer, *, context_tokens: int, words: int
) -> tuple[list[tuple[Int64[np.ndarray, "tokens"], Int64[np.ndarray, "tokens"], Prompt]], int]:
    """What each of ``makes`` gives for ``words``, or for so many fewer that all have at most ``context_tokens`` tokens.

    For each its tokens, the index of the answer that each token belongs to (or -1), and the prompt; then the words.
    Raises UserError where one of ``makes`` does: if no prompt is so short.
    """
    while True:
        prompts = [make(words) for make in makes]
        encoded = [encode_prompt(prompt, tokenizer) for prompt in prompts]
        longest = max(len(tokens) for tokens, _ in encoded)
        if longest <= context_tokens:
            return [(*pair, prompt) for pair, prompt in zip(encoded, prompts, strict=True)], words
        words = min(words - 1, words * context_tokens // longest)


def encode_prompt(
    prompt: Prompt, tokenizer: Tokenizer
) -> tuple[Int64[np.ndarray, "tokens"], Int64[np.ndarray, "tokens"]]:
    """The prompt as in training, without an end; and the index of the answer that each token belongs to, or -1."""
    document = Document(prompt.text, "probe", "instruction", "unknown", "probe", loss_spans=prompt.answers)
    tokens, trained = (values[:-1] for values in tokenizer.encode_document(document))
    trained[0] = 0  # the BOS, or a token without one before it
    answers = np.diff(trained.astype(np.int8), prepend=np.int8(0)) == 1
    assert answers.sum() == len(prompt.answers), "answers have tokens between them"
    asked = np.where(trained == 1, np.cumsum(answers) - 1, -1)
    return tokens, asked
