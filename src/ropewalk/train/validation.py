"""Validation: measurements on held-out text during training, with the sharded model.

The measurements are those of evaluate/: the gain from far context, the loss at the base model's context beside that of
the base model, and retrieval. Prompts and documents differ from those of the final evaluation. The base model is
measured once for a stage, before the stage's model is loaded, and sharded as well. Its loss is stored in the stage's
folder.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from ropewalk.checkpoint.state import TrainState
from ropewalk.core.artifact import write_whole
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.read_json import read_written
from ropewalk.core.record import Metric, read_metrics
from ropewalk.core.strict_json import read_float, spell_json
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.items import Sums
from ropewalk.evaluate.learning_verdict import judge_learning
from ropewalk.evaluate.long_context_gain import ContextGain, plan_context_gain
from ropewalk.evaluate.needle_shares import NeedleShares, RetrievalHeads, choose_heads
from ropewalk.evaluate.retrieval import Retrieval, plan_retrieval
from ropewalk.evaluate.sharded_model import measure_shared
from ropewalk.evaluate.short_context_loss import ShortLoss, plan_short_loss
from ropewalk.model.load import build_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.rope_hooks import interpolate_positions
from ropewalk.parallel.collective import rank_and_ranks, share_from_first
from ropewalk.parallel.mesh import Mesh
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.partition.choose import Sharing
from ropewalk.probe.key_value import KeyValue
from ropewalk.recipe.gates import Stop
from ropewalk.recipe.learned import FEWEST_VALIDATIONS, HELD_OUT, LEARNED
from ropewalk.recipe.spec import EvaluateSpec
from ropewalk.recipe.validation import Validation
from ropewalk.shape.read import read_shape
from ropewalk.train.prepare_model import prepare_model
from ropewalk.train.stage_context import StageContext

Planned = ContextGain | ShortLoss | Retrieval
LAST_VALIDATIONS = 5
_HEAD_ANSWERS = 64
"""Answers of the base that its heads are found by."""
_LEAST_GAIN = 0.01
"""The smallest gain over these validations that matters: of nats, or of the share of answers."""


@dataclass(frozen=True)
class Reader:
    """Runs a sharded model on evaluation items. ``sequence_tokens`` is that of the stage, in tokens."""

    mesh: Mesh
    sharing: Sharing
    sequence_tokens: int

    def read(self, model: nn.Module, planned: Planned, shares: NeedleShares | None = None) -> Sums:
        """Return the sums of one measurement. Every rank must call it. ``shares`` gets each head's attention."""
        return measure_shared(
            model,
            planned.items,
            planned.groups,
            mesh=self.mesh,
            sharing=self.sharing,
            sequence_tokens=self.sequence_tokens,
            shares=shares,
        )


@dataclass(frozen=True)
class BaseFigures:
    """Figures of the base model that a stage's validations refer to.

    ``short`` is its loss on the short text in nats per token, by source; empty if there is none. ``heads`` are those of
    its heads that retrieve.
    """

    short: dict[str, float] = field(default_factory=dict)
    heads: RetrievalHeads | None = None


@dataclass(frozen=True)
class HeldOut:
    """The measurements that a stage makes every ``steps`` steps.

    ``past`` holds the values of each measure by step, those of earlier sessions included.
    """

    steps: int
    planned: tuple[Planned, ...]
    reader: Reader
    base: BaseFigures
    past: dict[str, dict[int, float]] = field(default_factory=dict)

    def ask(self, state: TrainState) -> list[Metric]:
        """Return the metrics of the current weights, with the final positions of the stage. Every rank must call it."""
        interpolate_positions(state.model, 1.0)
        found = [
            Metric(state.stage, state.step, f"{HELD_OUT}{name}", value, unit)
            for each in self.planned
            for name, value, unit in self._tell(each, state.model)
        ]
        for metric in found:
            self.past.setdefault(metric.name, {})[metric.step] = metric.value
        return found

    def is_saturated(self, state: TrainState, stop: Stop, *, from_step: int) -> bool:
        """Whether the last validations, from ``from_step`` to this step, show that ``stop.metric`` is saturated."""
        assert stop.saturated is not None
        past = self.past.get(stop.metric, {})
        steps = [step for step in sorted(past) if step % self.steps == 0 and from_step <= step <= state.step]
        values = [past[step] for step in steps[-LAST_VALIDATIONS:]]
        if len(values) < FEWEST_VALIDATIONS:
            return False
        lower_is_better = LEARNED[stop.metric.removeprefix(HELD_OUT)].lower_is_better
        verdict = judge_learning(values, margin=stop.saturated, lower_is_better=lower_is_better)
        if verdict.state == "saturated" and rank_and_ranks()[0] == 0:
            say(f"stage {state.stage} ends at step {state.step}: {stop.metric} is {verdict.text}")
        return verdict.state == "saturated"

    def _tell(self, planned: Planned, model: nn.Module) -> Iterator[tuple[str, float, str]]:
        heads = self.base.heads
        shares = NeedleShares() if isinstance(planned, Retrieval) and heads is not None else None
        sums = self.reader.read(model, planned, shares)
        if isinstance(planned, ContextGain):
            yield from planned.tell(sums)
        elif isinstance(planned, Retrieval):
            yield "retrieval", float((sums.correct == sums.count).mean()), "share"
            yield "answer_loss", float(sums.nll.sum() / sums.count.sum()), "nats per token"
            if shares is not None and heads is not None:
                yield "retrieval_heads", heads.share(shares), "share"
        else:
            for name, loss in tell_short(planned, sums).items():
                yield f"short/{name}", loss, "nats per token"
                if name in self.base.short:
                    yield f"change/short/{name}", loss / self.base.short[name] - 1, "share"


def judge_validations(metrics: Iterable[Metric], *, stage: int, steps: int) -> Iterator[str]:
    """Say of each measure whether the stage still learned it; nothing where there are fewer than four validations.

    The validation at the stage's end counts only if it has the distance of the others, ``steps``.
    """
    mine = [metric for metric in metrics if metric.stage == stage and metric.step % steps == 0]
    for name, (_, unit, lower_is_better) in LEARNED.items():
        values = [metric.value for metric in mine if metric.name == f"{HELD_OUT}{name}"][-LAST_VALIDATIONS:]
        if len(values) >= FEWEST_VALIDATIONS:
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
        found.append(_plan_answers(evaluate, extended, tokens=reach_tokens, answers=spec.answers))
    return tuple(each for each in found if each is not None)


def _plan_answers(evaluate: EvaluateSpec, extended: Path, *, tokens: int, answers: int) -> Retrieval | None:
    probe, seed = KeyValue(pairs=evaluate.pairs), evaluate.seed + 1
    tokenizer = load_tokenizer(extended)
    return plan_retrieval(probe, tokenizer, lengths=[tokens], answers=answers, depths=evaluate.depths, seed=seed)


def make_reader(context: StageContext) -> Reader:
    """Return the reader of a stage."""
    return Reader(context.mesh, context.sharing, sequence_tokens=context.spec.reach_tokens)


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
    found = BaseFigures()
    if base is not None and planned:
        found = _read_base(context, base, evaluate, planned=planned, reader=reader)
    _tell_missing(context, planned, found)
    past: dict[str, dict[int, float]] = {}
    for metric in share_from_first(_read_past(context)):
        past.setdefault(metric.name, {})[metric.step] = metric.value
    return HeldOut(spec.validation.steps, planned, reader, found, past)


def _tell_missing(context: StageContext, planned: Sequence[Planned], found: BaseFigures) -> None:
    """Say that no heads are followed. Raises UserError for a stop whose metric will never come."""
    answers = any(isinstance(each, Retrieval) for each in planned)
    heads = answers and found.heads is not None
    if context.is_first_rank and answers and not heads:
        say(
            f"stage {context.number}: retrieval heads are not followed: there is no base, no prompt has a needle, or "
            "attention is latent in every layer"
        )
    stop, gain = context.spec.stop, any(isinstance(each, ContextGain) for each in planned)
    there = {"held_out/full": gain, "held_out/retrieval_heads": heads}
    if stop is not None and stop.saturated is not None and not there.get(stop.metric, True):
        raise UserError(
            f"{stop.metric} is not measured, so the stage would never end by it",
            where=f"stages.{context.number}.stop.metric",
            why="no held-out document is long enough" if stop.metric == "held_out/full" else "no heads are followed",
            fix="name another metric of docs/train-monitoring.md, or give the stage what the metric needs",
        )


def _read_past(context: StageContext) -> list[Metric]:
    if not context.is_first_rank or not context.metrics.exists():
        return []
    return [
        metric
        for metric in read_metrics(context.metrics)
        if metric.stage == context.number and metric.name.startswith(HELD_OUT)
    ]


def _read_base(
    context: StageContext, base: Path, evaluate: EvaluateSpec, *, planned: Sequence[Planned], reader: Reader
) -> BaseFigures:
    """The base's figures, read once for a stage and stored in its folder."""
    short = next((each for each in planned if isinstance(each, ShortLoss)), None)
    prompts = next((each for each in planned if isinstance(each, Retrieval)), None)
    if prompts is not None:  # heads are found where the base can retrieve: at its own length, if a prompt fits there
        tokens, extended = read_shape(base).context_tokens, context.folder.extended
        prompts = _plan_answers(evaluate, extended, tokens=tokens, answers=_HEAD_ANSWERS) or prompts
    path, heads_path, parallel = context.folder.base_loss, context.folder.retrieval_heads, context.parallel
    known = share_from_first(_read_stored(path, heads_path, short=short, prompts=prompts))
    if known is None:
        require_intact(base, together=True)
        learner = ModelWithLoss(build_model(base), chunk_tokens=parallel.asked_loss_tokens)
        prepare_model(learner, context.mesh, savings=context.savings, precision=parallel.precision, weights=base)
        loss = {} if short is None else tell_short(short, reader.read(learner, short))
        heads = None
        if prompts is not None:
            reader.read(learner, prompts, shares := NeedleShares())
            heads = choose_heads(shares)
        known = BaseFigures(loss, heads)
        if context.is_first_rank:
            write_whole(path, spell_json(loss, indent=1))
            write_whole(heads_path, spell_json(None if heads is None else asdict(heads)) + "\n")
    return known


def _read_stored(
    path: Path, heads_path: Path, *, short: ShortLoss | None, prompts: Retrieval | None
) -> BaseFigures | None:
    if not path.exists() or (prompts is not None and not heads_path.exists()):
        return None
    loss: dict[str, float] = read_written(path, lambda kept: {name: read_float(nats) for name, nats in kept.items()})
    if short is not None and set(loss) != set(short.sources):
        return None
    kept = read_written(heads_path) if heads_path.exists() else None
    heads = None if kept is None else RetrievalHeads(tuple((a, b) for a, b in kept["heads"]), kept["base_share"])
    return BaseFigures(loss, heads)
