"""Whether a stage has done its work, asked before the next one builds on it: gates on the model that it wrote.

A stage that lost the short context, or that does not retrieve at its own length, hands its damage on, and every later
stage costs more than the one before. Three figures tell: loss in the window that the stage came with, retrieval at its
new length, and loss at the base's own context. They are those of evaluate/, on other prompts than the final ones; a
verdict is written once and read when a run goes on, so a resumed run is judged the same.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.core.record import Score
from ropewalk.core.written import read_written
from ropewalk.evaluate.evaluate import evaluate_models
from ropewalk.recipe.gates import Promotion
from ropewalk.recipe.spec import EvaluateSpec
from ropewalk.shape.read import read_shape

BASE, BEFORE, TRAINED = "base", "before", "trained"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One gate: what was found, what it must be, in words. ``value`` is None where nothing could be measured."""

    gate: str
    value: float | None
    limit: float
    met: bool
    text: str


def measure_promotion(
    promotion: Promotion, spec: EvaluateSpec, *, models: Mapping[str, Path], reach_tokens: int, corpus: Path
) -> list[Verdict] | None:
    """The verdicts on ``trained`` among ``models`` (``base``, ``before``, ``trained``); None on ranks but the first.

    ``before`` is the model that the stage started from, and may be missing where that is the base. Every rank calls it.
    """
    base_tokens = read_shape(models[BASE]).context_tokens
    before = BEFORE if BEFORE in models else BASE
    window_tokens = read_shape(models[before]).context_tokens
    asked = spec.model_copy(
        update={
            "lengths": (max(1, reach_tokens // base_tokens),),
            "position_lengths": max(1, window_tokens // base_tokens),
            "answers": promotion.answers,
            "documents": promotion.documents,
            "short_tokens": promotion.short_tokens,
            "probes": (),
            "seed": spec.seed + 1,
        }
    )
    scores = evaluate_models(models, asked, corpus=corpus, base_context_tokens=base_tokens)
    return None if scores is None else list(judge(promotion, scores, before=before))


def judge(promotion: Promotion, scores: Sequence[Score], *, before: str) -> Iterator[Verdict]:
    """Each gate that ``promotion`` sets, from the scores of all models."""

    def find(model: str, task: str) -> list[Score]:
        return [score for score in scores if score.model == model and score.task.startswith(task)]

    if promotion.window_loss is not None:
        # The last bucket of positions is the last quarter of the window.
        ours, its = (find(model, "nll/position/")[-1:] for model in (TRAINED, before))
        value = ours[0].value - its[0].value if ours and its else None
        yield _at_most(
            "window_loss", value, promotion.window_loss, f"nats above {before}'s, last quarter of its window"
        )
    if promotion.retrieval is not None:
        found = find(TRAINED, "retrieval/")
        answers = sum(score.n for score in found)
        share = sum(score.value * score.n for score in found) / answers if answers else None
        met = share is not None and share >= promotion.retrieval
        text = _tell("retrieval", share, f"at least {promotion.retrieval:g}", "of the answers at the stage's length")
        yield Verdict("retrieval", share, promotion.retrieval, met, text)
    if promotion.short_loss is not None:
        changes = find(TRAINED, "change/short/")
        worst = max(changes, key=lambda score: score.value, default=None)
        name = "" if worst is None else f", worst in {worst.task.removeprefix('change/short/')}"
        value = None if worst is None else worst.value
        yield _at_most("short_loss", value, promotion.short_loss, f"of the base's loss more at its own context{name}")


def spell_verdicts(verdicts: Sequence[Verdict]) -> str:
    """The content of a stage's promotion.json."""
    return json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n"


def read_verdicts(path: Path) -> list[Verdict]:
    """Read back what ``spell_verdicts`` gave. Raises UserError where that cannot be read."""
    return read_written(path, lambda entries: [Verdict(**entry) for entry in entries])


def refuse_promotion(verdicts: Sequence[Verdict], *, stage: int, path: Path) -> None:
    """Raise UserError if any gate is not met."""
    missed = [verdict.text for verdict in verdicts if not verdict.met]
    if missed:
        raise UserError(
            f"stage {stage} is not promoted",
            where=str(path),
            why="\n         ".join(missed),
            fix="give the stage more tokens or another mix in a new run folder; promote.otherwise: warn goes on anyway",
        )


def _at_most(gate: str, value: float | None, limit: float, meaning: str) -> Verdict:
    met = value is not None and value <= limit
    return Verdict(gate, value, limit, met, _tell(gate, value, f"at most {limit:g}", meaning))


def _tell(gate: str, value: float | None, limit: str, meaning: str) -> str:
    if value is None:
        return f"{gate}: not measured, no held-out text or prompt is long enough; asked is {limit} {meaning}"
    return f"{gate}: {value:.4g}, asked is {limit} {meaning}"
