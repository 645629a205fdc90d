"""Validation: measurements on held-out text during training, with the sharded model.

The measurements are those of evaluate/: the gain from far context, the loss at the base model's context beside that of
the base model, and retrieval. Prompts and documents differ from those of the final evaluation. The base model is
measured once for a stage, before the stage's model is loaded, and sharded as well. Its loss is stored in the stage's
folder.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ropewalk.checkpoint.state import TrainState
from ropewalk.core.artifact import write_whole
from ropewalk.core.progress import say
from ropewalk.core.read_json import read_written
from ropewalk.core.record import Metric
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.items import Sums
from ropewalk.evaluate.learning_verdict import FEWEST_CHECKPOINTS, judge_learning
from ropewalk.evaluate.long_context_gain import ContextGain, plan_context_gain
from ropewalk.evaluate.retrieval import Retrieval, plan_retrieval
from ropewalk.evaluate.sharded_model import measure_shared
from ropewalk.evaluate.short_context_loss import ShortLoss, plan_short_loss
from ropewalk.model.load import build_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.rope_hooks import anneal_positions
from ropewalk.parallel.collective import share_from_first
from ropewalk.parallel.mesh import Mesh
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.partition.choose import Sharing
from ropewalk.probe.key_value import KeyValue
from ropewalk.recipe.spec import EvaluateSpec
from ropewalk.recipe.validation import Validation
from ropewalk.shape.read import read_shape
from ropewalk.train.prepare_model import choose_savings, prepare_model
from ropewalk.train.stage_context import StageContext

Planned = ContextGain | ShortLoss | Retrieval
_LEARNED = {"full": ("nats, a fall is a gain", True), "retrieval": ("share of right answers", False)}
_LAST_VALIDATIONS = 5
_LEAST_GAIN = 0.01
"""The smallest gain over these validations that matters: of nats, or of the share of answers."""


@dataclass(frozen=True)
class Reader:
    """Runs a sharded model on evaluation items. ``row_tokens`` is the length of the stage's sequences in tokens."""

    mesh: Mesh
    sharing: Sharing
    row_tokens: int

    def read(self, model: nn.Module, planned: Planned) -> Sums:
        """Return the sums of one measurement. Every rank must call it."""
        settings = {"mesh": self.mesh, "sharing": self.sharing, "row_tokens": self.row_tokens}
        return measure_shared(model, planned.items, planned.groups, **settings)  # type: ignore[arg-type]


@dataclass(frozen=True)
class HeldOut:
    """The measurements that a stage makes every ``steps`` steps.

    ``base_loss`` is the base model's loss on the short text in nats per token, by source; empty if there is none.
    """

    steps: int
    planned: tuple[Planned, ...]
    reader: Reader
    base_loss: dict[str, float]

    def ask(self, state: TrainState) -> list[Metric]:
        """Return the metrics of the current weights, with the final positions of the stage. Every rank must call it."""
        anneal_positions(state.model, 1.0)
        return [
            Metric(state.stage, state.step, f"held_out/{name}", value, unit)
            for each in self.planned
            for name, value, unit in self._tell(each, self.reader.read(state.model, each))
        ]

    def _tell(self, planned: Planned, sums: Sums) -> Iterator[tuple[str, float, str]]:
        if isinstance(planned, ContextGain):
            yield from planned.tell(sums)
        elif isinstance(planned, Retrieval):
            yield "retrieval", float((sums.correct == sums.count).mean()), "share"
        else:
            for name, loss in tell_short(planned, sums).items():
                yield f"short/{name}", loss, "nats per token"
                if name in self.base_loss:
                    yield f"change/short/{name}", loss / self.base_loss[name] - 1, "share"


def judge_validations(rows: Iterable[Metric], *, stage: int, steps: int) -> Iterator[str]:
    """Say of each measure whether the stage still learned it; nothing where there are fewer than four validations.

    The validation at the stage's end counts only if it has the distance of the others, ``steps``.
    """
    mine = [row for row in rows if row.stage == stage and row.step % steps == 0]
    for name, (unit, lower_is_better) in _LEARNED.items():
        values = [row.value for row in mine if row.name == f"held_out/{name}"][-_LAST_VALIDATIONS:]
        if len(values) >= FEWEST_CHECKPOINTS:
            verdict = judge_learning(values, margin=_LEAST_GAIN, lower_is_better=lower_is_better)
            yield f"stage {stage}: held-out {name} ({unit}): {verdict.text}"


def tell_short(planned: ShortLoss, sums: Sums) -> dict[str, float]:
    """Return the loss of each source in nats per token."""
    return {score.task.removeprefix("short/"): score.value for score in planned.score(sums, model="")}


def plan_validation(
    spec: Validation, evaluate: EvaluateSpec, *, extended: Path, corpus: Corpus, reach_tokens: int, base_tokens: int
) -> tuple[Planned, ...]:
    """Return the measurements of ``spec`` for which the corpus has text; the same ones on every rank."""
    seed = evaluate.seed + 1  # the final evaluation uses other prompts
    truncated_tokens = spec.truncated_tokens or base_tokens
    found: list[Planned | None] = []
    if spec.documents:
        lengths = {"context_tokens": reach_tokens, "truncated_tokens": truncated_tokens, "documents": spec.documents}
        found.append(plan_context_gain(corpus, **lengths, seed=seed))
    if spec.short_tokens:
        found.append(plan_short_loss(corpus, base_tokens=base_tokens, tokens=spec.short_tokens, seed=seed))
    if spec.answers:
        probe, tokenizer = KeyValue(pairs=evaluate.pairs), load_tokenizer(extended)
        asked = {"lengths": [reach_tokens], "answers": spec.answers, "depths": evaluate.depths}
        found.append(plan_retrieval(probe, tokenizer, seed=seed, **asked))  # type: ignore[arg-type]
    return tuple(each for each in found if each is not None)


def make_reader(context: StageContext) -> Reader:
    """Return the reader of a stage."""
    return Reader(context.mesh, context.sharing, row_tokens=context.spec.reach_tokens)


def prepare_validation(
    context: StageContext, evaluate: EvaluateSpec, *, corpus: Corpus, base: Path | None
) -> HeldOut | None:
    """Return the validation of a stage; None if it has none. Every rank must call it.

    The base model is measured here, unless its loss is stored already. ``base`` is None where a run starts from
    scratch: then there is no loss to compare with.
    """
    spec, extended, reader = context.spec, context.folder.extended, make_reader(context)
    if spec.validation is None:
        return None
    planned = plan_validation(
        spec.validation,
        evaluate,
        extended=extended,
        corpus=corpus,
        reach_tokens=spec.reach_tokens,
        base_tokens=read_shape(extended if base is None else base).context_tokens,
    )
    measures_gain = any(isinstance(each, ContextGain) for each in planned)
    if context.is_first_rank and spec.validation.documents and not measures_gain:
        say(
            f"stage {context.number}: no held-out document has {spec.reach_tokens} tokens, so the gain from full "
            "context is not measured"
        )
    short = next((each for each in planned if isinstance(each, ShortLoss)), None)
    loss: dict[str, float] = {}
    if short is not None and base is not None:
        loss = _read_base(context, base, short=short, reader=reader)
    return HeldOut(spec.validation.steps, planned, reader, loss)


def _read_base(context: StageContext, base: Path, *, short: ShortLoss, reader: Reader) -> dict[str, float]:
    path, parallel = context.folder.base_loss, context.parallel
    known: dict[str, float] | None = share_from_first(read_written(path) if path.exists() else None)
    if known is None:
        require_intact(base, together=True)
        learner = ModelWithLoss(build_model(base), chunk_tokens=parallel.asked_loss_tokens)
        savings = choose_savings(parallel, context.spec, context.shape)
        prepare_model(learner, context.mesh, savings=savings, precision=parallel.precision, weights=base)
        known = tell_short(short, reader.read(learner, short))
        if context.is_first_rank:
            write_whole(path, json.dumps(known, indent=1))
    return known
