"""All measurements of a recipe, equal for every model: the same documents and the same prompts, token for token.

It reads only model folders, not the run that made them, so it measures any model. Compared models must share a
tokenizer; otherwise their inputs would differ.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.record import Score
from ropewalk.corpus.mix.held_out_text import tell_long
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.same_tokenizer import require_tokenizer
from ropewalk.corpus.tokens.tokenizer import Tokenizer, load_tokenizer
from ropewalk.evaluate.ability_loss import plan_ability_loss
from ropewalk.evaluate.benchmark_suite import BenchmarkPrompts, measure_benchmarks, plan_benchmarks
from ropewalk.evaluate.controlled_grid import plan_grid
from ropewalk.evaluate.foreign_loss import plan_foreign_loss
from ropewalk.evaluate.gain_by_distance import GainByDistance, plan_gain_by_distance
from ropewalk.evaluate.items import SEQUENCE_TOKENS, Sums, measure
from ropewalk.evaluate.loss_by_context import LossByContext, plan_loss_by_context
from ropewalk.evaluate.loss_by_position import PositionLoss, plan_position_loss
from ropewalk.evaluate.loss_by_source import LossBySource
from ropewalk.evaluate.retrieval import Retrieval, plan_retrieval
from ropewalk.evaluate.ruler_suite import RulerPrompts, measure_ruler, plan_ruler, read_answers
from ropewalk.evaluate.short_context_loss import plan_short_loss
from ropewalk.evaluate.stored_sums import find_or_measure
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.open_model import choose_reading_dtype, multiplies_slowly, open_model
from ropewalk.model.weights import Dtype
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.plan.memory import WHOLE_BYTES
from ropewalk.probe.key_value import KeyValue
from ropewalk.recipe.multiple import count_tokens
from ropewalk.recipe.spec import EvaluateSpec

Measurement = PositionLoss | GainByDistance | LossByContext | Retrieval | LossBySource
"""Each has items, their groups, and ``score``, which turns the groups' sums into scores."""


def evaluate_models(
    models: Mapping[str, Path],
    spec: EvaluateSpec,
    *,
    corpus: Path | None,
    base_context_tokens: int,
    store: Path | None = None,
) -> list[Score] | None:
    """Measure each model folder, by name; the scores on the first rank, None on others. Every rank calls it.

    Lengths are multiples of ``base_context_tokens``. Changes are relative to the first of ``models``; those of the far
    loss are relative to each earlier model. Without a ``corpus`` there is no held-out text, so only retrieval is
    measured. With a ``store`` the sums of each model are kept there and found again (stored_sums.py). Raises UserError
    where tokenizers differ, and for a folder that does not match its manifest.
    """
    tokenizer = _share_tokenizer(models)
    held = None if corpus is None else open_corpus(corpus)
    if held is not None:
        require_tokenizer(held, tokenizer, where=next(iter(models.values())))
    for folder in models.values():  # check all before the first measurement, which takes an hour
        require_intact(folder, together=True)
    planned = plan_measurements(spec, tokenizer, corpus=held, base_tokens=base_context_tokens)
    ruler = _plan_ruler(spec, tokenizer, base_tokens=base_context_tokens)
    answers = read_answers(ruler, depths=spec.depths)
    benchmarks = plan_benchmarks(
        spec.benchmarks, tokenizer, longest_tokens=count_tokens(max(spec.lengths), base_context_tokens), seed=spec.seed
    )
    precision = choose_reading_dtype(spec.precision)
    found: dict[str, list[Sums]] = {}
    scores: list[Score] = []
    for name, folder in models.items():

        def measure_it(name: str = name, folder: Path = folder) -> tuple[list[Sums], list[Score]]:
            sums = measure_model(folder, planned, name=name, precision=precision)
            wrote: list[Score] = []
            if spec.ruler is not None:
                more, wrote = measure_ruler(folder, ruler, tokenizer, spec.ruler, name=name, precision=precision)
                sums += more
            if benchmarks:
                wrote += measure_benchmarks(folder, benchmarks, tokenizer, name=name, precision=precision)
            return sums, wrote

        if store is None:
            found[name], written = measure_it()
        else:
            items = [each.items for each in (*planned, *answers, *ruler)]
            found[name], written = find_or_measure(
                store, folder, items, describe_written(spec, benchmarks), name=name, measure=measure_it
            )
        for each, sums in zip([*planned, *answers], found[name], strict=True):
            scores += each.score(sums, model=name)
        scores += written
    scores += _score_changes(planned, found)
    if rank_and_ranks()[0]:
        return None
    for line in _tell_gaps(scores):
        say(line)
    return scores


def _plan_ruler(spec: EvaluateSpec, tokenizer: Tokenizer, *, base_tokens: int) -> list[RulerPrompts]:
    if spec.ruler is None:
        return []
    return plan_ruler(
        spec.ruler, tokenizer, lengths=[count_tokens(each, base_tokens) for each in spec.lengths], seed=spec.seed
    )


def describe_written(spec: EvaluateSpec, benchmarks: Sequence[BenchmarkPrompts]) -> list[Any]:
    """All that decides written answers beside the items; without benchmarks as before there were any."""
    # sums that a CPU reads in float32 make no pair with those of a GPU that shares the store
    dtype = choose_reading_dtype(spec.precision)
    precision = [dtype, "float32"] if multiplies_slowly(dtype) else dtype
    asked = [precision, None if spec.ruler is None else spec.ruler.model_dump(mode="json")]
    return [*asked, *(each.describe(spec.seed) for each in benchmarks)]


def measure_model(
    folder: Path,
    planned: Sequence[Measurement],
    *,
    name: str,
    precision: Dtype,
    whole_bytes: int = WHOLE_BYTES,
    sequence_tokens: int = SEQUENCE_TOKENS,
) -> list[Sums]:
    """The sums of each measurement on one model folder, over all ranks. Every rank calls it.

    A model of more than ``whole_bytes`` is sharded over them. Texts are packed into sequences of ``sequence_tokens``.
    """
    learner = open_model(ModelWithLoss, folder, dtype=precision, whole_bytes=whole_bytes)
    return [
        measure(learner, each.items, each.groups, name=f"{name}: {each.name}", sequence_tokens=sequence_tokens)
        for each in planned
    ]


def plan_measurements(
    spec: EvaluateSpec, tokenizer: Tokenizer, *, corpus: Corpus | None, base_tokens: int
) -> list[Measurement]:
    """The measurements that a recipe requests; the same on every rank."""
    lengths = [count_tokens(multiple, base_tokens) for multiple in spec.lengths]
    planned: list[Measurement | None] = [
        plan_retrieval(probe, tokenizer, lengths=lengths, answers=spec.answers, depths=spec.depths, seed=spec.seed)
        for probe in (KeyValue(pairs=spec.pairs), *spec.probes)
    ]
    if spec.grid is not None:
        planned += plan_grid(spec.grid, tokenizer, lengths=lengths, depths=spec.depths, seed=spec.seed)
    if corpus is not None:
        positions = plan_position_loss(
            corpus, base_tokens=base_tokens, multiple=spec.position_lengths, documents=spec.documents, seed=spec.seed
        )
        _tell_documents(0 if positions is None else len(positions.documents), spec, base_tokens)
        short = plan_short_loss(corpus, base_tokens=base_tokens, tokens=spec.short_tokens, seed=spec.seed)
        gain = plan_gain_by_distance(
            corpus, base_tokens=base_tokens, multiple=spec.position_lengths, documents=spec.documents, seed=spec.seed
        )
        far_tokens = count_tokens(spec.position_lengths, base_tokens)
        law = plan_loss_by_context(
            corpus, context_tokens=far_tokens, documents=spec.documents, seed=spec.seed, asked=spec.context_law
        )
        planned = [positions, gain, law, *planned, short]
    planned.append(
        plan_foreign_loss(spec.foreign, tokenizer, corpus=corpus, context_tokens=base_tokens, tokens=spec.short_tokens)
    )
    planned.append(plan_ability_loss(tokenizer, context_tokens=base_tokens, prompts=spec.abilities, seed=spec.seed))
    return [each for each in planned if each is not None]


def _score_changes(planned: Sequence[Measurement], found: Mapping[str, list[Sums]]) -> Iterator[Score]:
    """What needs several models: key tokens, and the changes in later models, in pairs over the same documents."""
    names = list(found)
    for place, each in enumerate(planned):
        if isinstance(each, GainByDistance):
            yield from each.score_key_tokens({name: sums[place] for name, sums in found.items()})
    for number, name in enumerate(names):
        for place, each in enumerate(planned):
            if isinstance(each, LossBySource) and number:
                yield from each.score_change(found[names[0]][place], found[name][place], model=name)
            elif isinstance(each, PositionLoss):
                for than in names[:number]:
                    yield from each.score_change(found[than][place], found[name][place], than=than, model=name)


def _share_tokenizer(models: Mapping[str, Path]) -> Tokenizer:
    (first, folder), *others = models.items()
    tokenizer = load_tokenizer(folder)
    for name, other in others:
        if load_tokenizer(other).digest != tokenizer.digest:
            raise UserError(
                f"{name} has another tokenizer than {first}",
                where=str(other / "tokenizer.json"),
                why="models are compared on the same tokens, and a loss per token means nothing across tokenizers",
                fix="measure them in two runs, or copy the tokenizer files of the base",
            )
    return tokenizer


def _tell_documents(found: int, spec: EvaluateSpec, base_tokens: int) -> None:
    if found < spec.documents and not rank_and_ranks()[0]:
        context_tokens = count_tokens(spec.position_lengths, base_tokens)
        say(f"loss by position: {tell_long(found, spec.documents, context_tokens=context_tokens)}")


def _tell_gaps(scores: list[Score]) -> Iterator[str]:
    """The three figures of loss by position, per model."""
    for gap in (score for score in scores if score.task == "nll/gap"):
        far_tokens = gap.context_tokens
        mine = {score.task: score.value for score in scores if score.model == gap.model}
        far = next(value for task, value in mine.items() if re.fullmatch(rf"nll/position/\d+-{far_tokens}", task))
        yield (
            f"{gap.model}: loss {far - gap.value:.4f} nats in the last quarter of the base's context, {far:.4f} in the "
            f"last of {far_tokens} tokens, difference {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
        )
