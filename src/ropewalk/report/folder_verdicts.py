"""Verdicts on a model folder against its base, without a run: those of a run's report that need no corpus.

The list is closed: what a run's report judges and these scores do not have is named, with the reason.
"""

from collections.abc import Iterator, Sequence

from ropewalk.core.quantity import format_length
from ropewalk.core.record import Score
from ropewalk.report.target import Unit, Verdict, format_bound, format_value
from ropewalk.report.verdict import FOREIGN_LIMIT, RETRIEVAL, RETRIEVAL_LIMIT

MODEL = "model"
"""The name of the folder that is judged, beside ``base``."""
_RISE = "change/foreign/"
_NO_CORPUS = "it needs held-out text of a recipe's corpus (ropewalk evaluate RECIPE)"


def judge_folder(scores: Sequence[Score], *, base_tokens: int, model_tokens: int) -> tuple[list[Verdict], list[str]]:
    """The verdicts on ``model``, and a line for each measure of a report that has none here, with the reason.

    ``base_tokens`` and ``model_tokens`` are the contexts of the two models.
    """
    verdicts, missing = list[Verdict](), [f"context gain: not measured, {_NO_CORPUS}"]
    for tokens in sorted({base_tokens, model_tokens}):
        name = f"retrieval at {tokens / base_tokens:g}x ({format_length(tokens)})"
        found = _find(scores, RETRIEVAL, tokens)
        if found is None:
            missing.append(f"{name}: not measured, no prompt of this length was asked (lengths)")
        else:
            verdicts.append(_judge(f"retrieval/{tokens / base_tokens:g}x", name, found, (">=", RETRIEVAL_LIMIT)))
    missing.append(f"short-context loss: not measured, {_NO_CORPUS}")
    worst = _find(scores, "change/foreign_worst")
    if worst is None:
        told = "no text outside the mix was read that the base can read (foreign, --suite quick)"
        missing.append(f"forgetting: not measured, {told}")
    else:
        source, name = _name_worst(scores, worst), "forgetting: loss on text outside the mix, worst text"
        if source:
            name = f"forgetting: loss on text outside the mix, worst text ({source})"
        verdicts.append(_judge("foreign/worst", name, worst, ("<=", FOREIGN_LIMIT)))
    return verdicts, missing


def describe_verdicts(verdicts: Sequence[Verdict], missing: Sequence[str]) -> Iterator[str]:
    """A line for each verdict, with its value, interval and target, then the lines of ``missing``."""
    for verdict in verdicts:
        told = f"{format_value(verdict, interval=True)}, target {format_bound(verdict)}"
        if verdict.outcome == "undecided":
            yield f"{verdict.name}: undecided, the target lies inside the 95 % interval: {told}"
        else:
            yield f"{verdict.name}: pass, {told}" if verdict.met else f"{verdict.name}: FAIL, {told}"
    yield from missing


def _find(scores: Sequence[Score], task: str, tokens: int | None = None) -> Score | None:
    """The model's whole score of a task, at a length if one is given."""
    whole = [score for score in scores if score.model == MODEL and score.task == task and score.depth is None]
    return next((score for score in whole if tokens in (None, score.context_tokens)), None)


def _name_worst(scores: Sequence[Score], worst: Score) -> str:
    """The text outside the mix whose change is the largest one."""
    rises = (score for score in scores if score.model == MODEL and score.task.startswith(_RISE))
    return next((rise.task.removeprefix(_RISE) for rise in rises if rise.value == worst.value), "")


def _judge(key: str, name: str, score: Score, bound: tuple[str, float]) -> Verdict:
    unit: Unit = "share" if bound[0] == ">=" else "change"
    samples = score.samples
    return Verdict(key, name, MODEL, unit, score.value, score.low, score.high, bound, samples=samples)
