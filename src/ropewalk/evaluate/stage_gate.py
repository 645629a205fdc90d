"""Gates on the model of a finished stage: whether the next stage may start from it.

A stage may lose quality at short context, or may not retrieve at its own length. It passes this damage on, and every
later stage costs more than the one before. Four figures decide, each by its 95 % interval: loss in the window of the
model before the stage, retrieval at the new length, and loss at the base's own context, on the mix and on text outside
of it. They are those of evaluate/, on other prompts than the final ones. A verdict is written once and read when a run
continues, so a resumed run gets the same verdict.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.core.read_json import read_written
from ropewalk.core.record import Score
from ropewalk.core.strict_json import spell_json
from ropewalk.evaluate.evaluate import evaluate_models
from ropewalk.recipe.gates import Gate
from ropewalk.recipe.multiple import find_multiple
from ropewalk.recipe.spec import EvaluateSpec
from ropewalk.shape.read import read_shape

BASE, BEFORE, TRAINED = "base", "before", "trained"


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """One gate: its value, its limit, and both in words. ``value`` is None where nothing could be measured.

    ``met`` is None where the limit lies inside the value's 95 % interval: more documents or answers would decide.
    """

    gate: str
    value: float | None
    limit: float
    met: bool | None
    text: str

    @property
    def outcome(self) -> str:
        """``gate passed`` or a warning."""
        return "gate passed" if self.met else "WARNING: undecided" if self.met is None else "WARNING: gate not passed"


def measure_gate(
    gate: Gate, spec: EvaluateSpec, *, models: Mapping[str, Path], reach_tokens: int, corpus: Path
) -> list[GateVerdict] | None:
    """The verdicts on ``trained`` among ``models`` (``base``, ``before``, ``trained``); None except on the first rank.

    ``before`` is the model that the stage started from, and may be missing where that is the base. Every rank calls it.
    """
    base_tokens = read_shape(models[BASE]).context_tokens
    before = BEFORE if BEFORE in models else BASE
    window_tokens = read_shape(models[before]).context_tokens
    asked = spec.model_copy(
        update={
            "lengths": (find_multiple(reach_tokens, base_tokens),),
            "position_lengths": find_multiple(window_tokens, base_tokens),
            "answers": gate.answers,
            "documents": gate.documents,
            "short_tokens": gate.short_tokens,
            "probes": (),
            "grid": None,
            "ruler": None,
            "benchmarks": (),
            "context_law": False,
            "abilities": 0,
            "foreign": () if gate.foreign_loss is None else spec.foreign,
            "seed": spec.seed + 1,
        }
    )
    scores = evaluate_models(models, asked, corpus=corpus, base_context_tokens=base_tokens)
    return None if scores is None else list(judge_gates(gate, scores, before=before))


def judge_gates(gate: Gate, scores: Sequence[Score], *, before: str) -> Iterator[GateVerdict]:
    """Each gate that ``gate`` sets, from the scores of all models."""

    def find(model: str, task: str) -> list[Score]:
        return [score for score in scores if score.model == model and score.task.startswith(task)]

    if gate.window_loss is not None:
        change = next(iter(find(TRAINED, f"change/nll/{before}")), None)  # in the last quarter of the window
        meaning = f"nats above {before}'s, last quarter of its context"
        yield _at_most("window_loss", change, gate.window_loss, meaning)
    if gate.retrieval is not None:
        found = _pool([score for score in find(TRAINED, "retrieval/") if score.depth is None])
        met = found is not None and _decide(found.low >= gate.retrieval, found.high >= gate.retrieval)
        text = _tell(
            "retrieval", found, f"at least {gate.retrieval:g}", "of the answers at the context length of the stage"
        )
        yield GateVerdict("retrieval", None if found is None else found.value, gate.retrieval, met, text)
    if gate.short_loss is not None:
        limit, changes = gate.short_loss, find(TRAINED, "change/short/")
        # A source that misses the limit, else one that may miss it, else the largest change.
        worst = max(changes, key=lambda score: (score.low > limit, score.high > limit, score.value), default=None)
        name = "" if worst is None else f", worst in {worst.task.removeprefix('change/short/')}"
        yield _at_most("short_loss", worst, limit, f"increase of the base's loss at the base's own context{name}")
    if gate.foreign_loss is not None:
        yield _judge_foreign(gate.foreign_loss, find(TRAINED, "change/foreign/"), find(TRAINED, "change/foreign_worst"))


def spell_verdicts(verdicts: Sequence[GateVerdict]) -> str:
    """The content of a stage's gate.json."""
    return spell_json([asdict(verdict) for verdict in verdicts], indent=1) + "\n"


def read_verdicts(path: Path) -> list[GateVerdict]:
    """Read the output of ``spell_verdicts``. Raises UserError where it cannot be read."""
    return read_written(path, lambda entries: [GateVerdict(**entry) for entry in entries])


def refuse_missed_gate(verdicts: Sequence[GateVerdict], *, stage: int, path: Path, strict: bool = False) -> None:
    """Raise UserError if any gate is missed; if ``strict``, also if any gate is undecided."""
    missed = [verdict.text for verdict in verdicts if verdict.met is False or (strict and verdict.met is None)]
    if missed:
        raise UserError(
            f"stage {stage} does not pass its gate",
            where=str(path),
            why="\n         ".join(missed),
            fix="give the stage more tokens or another mix in a new run folder; gate.otherwise: warn continues anyway",
        )


def _at_most(gate: str, found: Score | None, limit: float, meaning: str) -> GateVerdict:
    met = found is not None and _decide(found.low <= limit, found.high <= limit)
    value = None if found is None else found.value
    return GateVerdict(gate, value, limit, met, _tell(gate, found, f"at most {limit:g}", meaning))


def _judge_foreign(limit: float, changes: Sequence[Score], worst: Sequence[Score]) -> GateVerdict:
    """``worst`` has the interval of all texts together. It is empty where the base can read none of them."""
    if changes and not worst:
        text = "foreign_loss: undecided, because the base is worse than a uniform guess on every text outside the mix"
        return GateVerdict("foreign_loss", None, limit, None, text)
    names = [score.task.removeprefix("change/foreign/") for score in changes if worst and score.value == worst[0].value]
    name = f", worst in {names[0]}" if names else ""
    found = worst[0] if worst else None
    return _at_most("foreign_loss", found, limit, f"increase of the base's loss outside the mix{name}")


def _decide(low_end: bool, high_end: bool) -> bool | None:
    """The decision of both ends of an interval; None where they differ."""
    return low_end if low_end == high_end else None


def _pool(scores: Sequence[Score]) -> Score | None:
    """The mean over answers; its interval is at least as wide as that of the tasks together."""
    answers = sum(score.n for score in scores)
    if not answers:
        return None
    value, low, high = (
        sum(getattr(score, name) * score.n for score in scores) / answers for name in ("value", "low", "high")
    )
    return replace(
        scores[0], n=answers, value=value, low=low, high=high, samples=None if len(scores) > 1 else scores[0].samples
    )


def _tell(gate: str, found: Score | None, limit: str, meaning: str) -> str:
    if found is None:
        return f"{gate}: not measured, because no held-out text or prompt is long enough; required is {limit} {meaning}"
    samples = "" if found.samples is None else f", n = {found.samples}"
    return f"{gate}: {found.value:.4g} [{found.low:.4g}, {found.high:.4g}]{samples}, required is {limit} {meaning}"
