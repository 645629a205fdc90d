"""Published benchmarks on the user's files: a model writes its answers greedily, and they are scored as published.

Prompt and answer fill at most the context length. A longer prompt loses its middle (LongBench) or the end of its
context (HELMET), as in the benchmark; how many were cut is told, and is a score of its own.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ropewalk.core.digest import digest_file
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.record import Score
from ropewalk.core.seed import stream
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.score import design_effect, wilson_of_prompts
from ropewalk.evaluate.written_text import write_texts
from ropewalk.model.greedy_writer import GreedyWriter
from ropewalk.model.open_model import open_model
from ropewalk.model.weights import Dtype
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.probe.benchmark_question import BenchmarkQuestion, Cut
from ropewalk.probe.prompt import Language
from ropewalk.recipe.benchmarks import BenchmarkSpec

BENCHMARK = "benchmark/"
"""Begins the tasks of these scores."""


@dataclass(frozen=True)
class BenchmarkPrompts:
    """The questions of one file as they are read; ``cut_tokens[i]`` tokens of prompt ``i`` were left out."""

    spec: BenchmarkSpec
    context_tokens: int
    generated_tokens: int
    metric: str
    questions: list[BenchmarkQuestion]
    prompts: list[Int64[np.ndarray, "_"]]
    cut_tokens: list[int]

    @property
    def task(self) -> str:
        return f"{BENCHMARK}{self.spec.label}"

    def describe(self, seed: int) -> list[object]:
        """JSON-like: all that decides the scores of a model, the content of files included."""
        files = [digest_file(path) for path in self.spec.files]
        return [self.spec.model_dump(mode="json"), files, self.context_tokens, seed]


def plan_benchmarks(
    specs: Sequence[BenchmarkSpec], tokenizer: Tokenizer, *, longest_tokens: int, seed: int
) -> list[BenchmarkPrompts]:
    """The prompts of each file. Raises UserError where a file cannot be used, or the context has no room for it."""
    return [_plan(spec, tokenizer, spec.context_length or longest_tokens, seed) for spec in specs]


def _plan(spec: BenchmarkSpec, tokenizer: Tokenizer, context_tokens: int, seed: int) -> BenchmarkPrompts:
    data = spec.read()
    questions = _draw(data.questions, spec, seed)
    if not questions:
        raise UserError(
            f"{spec.label} has no question to score",
            where=spec.path,
            why=data.left_out or "none has the language asked for",
            fix="give the whole file, or ask for another language",
        )
    written = spec.generated_tokens or data.generated_tokens
    read = [_encode(each, tokenizer, room=context_tokens - written, cut=data.cut, spec=spec) for each in questions]
    prompts, cut_tokens = [tokens for tokens, _ in read], [left for _, left in read]
    planned = BenchmarkPrompts(spec, context_tokens, written, data.metric, questions, prompts, cut_tokens)
    if not rank_and_ranks()[0]:
        for line in _tell(planned, data.left_out):
            say(line)
    return planned


def _tell(planned: BenchmarkPrompts, left_out: str) -> Iterator[str]:
    cut = [tokens for tokens in planned.cut_tokens if tokens]
    if left_out:
        yield f"{planned.task}: {left_out}"
    if cut:
        yield (
            f"{planned.task}: {len(cut)} of {len(planned.prompts)} prompts are cut to {planned.context_tokens} tokens "
            f"with their answer; the longest loses {max(cut)}"
        )


def _draw(questions: list[BenchmarkQuestion], spec: BenchmarkSpec, seed: int) -> list[BenchmarkQuestion]:
    """The questions of at most ``samples`` groups, in the order of the file."""
    groups = sorted({each.group for each in questions})
    if spec.samples is None or spec.samples >= len(groups):
        return questions
    drawn = stream("evaluate", BENCHMARK, spec.label, seed).permutation(len(groups))[: spec.samples]
    kept = {groups[number] for number in drawn.tolist()}
    return [each for each in questions if each.group in kept]


def _encode(
    question: BenchmarkQuestion, tokenizer: Tokenizer, *, room: int, cut: Cut, spec: BenchmarkSpec
) -> tuple[Int64[np.ndarray, "tokens"], int]:
    """(the prompt in at most ``room`` tokens, tokens that it lost)."""
    bos = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], dtype=np.int64)
    whole = tokenizer.encode(question.before + question.context + question.after + question.begin)
    left = len(bos) + len(whole) - room
    if left <= 0:
        return np.concatenate([bos, whole]), 0  # [1] + [_] -> [tokens]
    if cut == "middle":
        end = tokenizer.encode_inside(question.begin) if question.begin else bos[:0]
        asked = tokenizer.encode(question.before + question.context + question.after)
        kept = room - len(bos) - len(end)
        parts = asked[: (kept + 1) // 2], asked[len(asked) - kept // 2 :], end
        left, kept = len(asked) - kept, kept - len(tokenizer.encode_inside(question.after))
    else:
        first = tokenizer.encode(question.before) if question.before else bos[:0]
        context, last = (tokenizer.encode_inside(text) for text in (question.context, question.after))
        kept = room - len(bos) - len(first) - len(last)
        parts, left = (first, context[: max(0, kept)], last), len(context) - kept
    if kept <= 0:
        raise UserError(
            f"the context has no room for a question of {spec.label}",
            where=f"{spec.path}: {question.group}",
            why=f"{room} tokens are left beside the answer, and the question alone needs them",
            fix="measure at a longer context_length, or with fewer generated_tokens",
        )
    return np.concatenate([bos, *parts]), left  # [1] + 3 x [_] -> [tokens]


def measure_benchmarks(
    folder: Path, planned: Sequence[BenchmarkPrompts], tokenizer: Tokenizer, *, name: str, precision: Dtype
) -> list[Score]:
    """``benchmark/NAME``, its parts, and ``benchmark/NAME/cut``, the share of prompts that were cut.

    Every rank calls it; all read each prompt together.
    """
    learner = open_model(GreedyWriter, folder, dtype=precision)
    scores: list[Score] = []
    for each in planned:

        def is_done(number: int, text: str, each: BenchmarkPrompts = each) -> bool:
            question = each.questions[number]
            return question.ends(question.begin + text)

        found = write_texts(learner, each.prompts, tokenizer, most_tokens=each.generated_tokens, is_done=is_done)
        texts = [each.text for each in found]
        mine = list(score_benchmark(each, texts, model=name))
        scores += mine
        if not rank_and_ranks()[0]:
            say(f"{name}: {each.task} at {each.context_tokens} tokens: {mine[0].value:.1%}")
    return scores


def score_benchmark(planned: BenchmarkPrompts, texts: Sequence[str], *, model: str) -> Iterator[Score]:
    """The scores of written ``texts``: of all questions, of each part, and the share of cut prompts."""
    values = np.array([question.score(text) for question, text in zip(planned.questions, texts, strict=True)])
    parts: dict[str, list[int]] = defaultdict(list)
    for number, question in enumerate(planned.questions):
        for part in ("", *(f"/{part}" for part in question.parts)):
            parts[part].append(number)
    for part, numbers in parts.items():
        names = [planned.questions[number].group for number in numbers]
        group = np.unique(names, return_inverse=True)[1]
        right, count = np.bincount(group, weights=values[numbers]), np.bincount(group).astype(float)
        interval = wilson_of_prompts(right, count, together=True)
        spoken = {planned.questions[number].language for number in numbers}
        language: Language | None = spoken.pop() if len(spoken) == 1 else None
        where = planned.context_tokens, None, language, len(numbers)
        effect = design_effect(right, count, together=True)
        yield Score(model, f"{planned.task}{part}", planned.metric, *where, *interval, len(count), effect)
    share = sum(tokens > 0 for tokens in planned.cut_tokens) / len(texts)
    where = planned.context_tokens, None, None, len(texts)
    yield Score(model, f"{planned.task}/cut", "share", *where, share, share, share, len(texts))
