"""The section about the loss of the same tokens at several contexts, and the law that it follows."""

from ropewalk.core.quantity import format_length
from ropewalk.core.record import Score
from ropewalk.report.contents import Contents
from ropewalk.report.section import Section
from ropewalk.report.table import Table, TableCell

_TASK = "context_law/"
_PARAMETERS = ("alpha", "beta", "gamma")


def make_context_losses(contents: Contents) -> Section | None:
    """The losses by context, and the law of each model with its intervals; None where they were not measured."""
    losses = {model: contents.find_scores(f"{_TASK}loss", model=model) for model in contents.models}
    losses = {model: scores for model, scores in losses.items() if scores}
    if not losses:
        return None
    contexts = dict.fromkeys(score.context_tokens for scores in losses.values() for score in scores)
    rows = [
        [format_length(tokens), *(_find(scores, tokens) for scores in losses.values())] for tokens in sorted(contexts)
    ]
    caption = "Loss in nats per token, [95 % interval over documents]."
    lead = (
        "The same tokens, the last quarter of long documents, with more and more context before them. The law "
        "L(c) = (alpha/c)^beta + gamma is fitted without the longest context first: where it misses that one by more "
        "than 1 %, or explains less than 97 % of the variance, it is refused."
    )
    laws = Table(
        ["model", "alpha, tokens", "beta", "gamma, nats", "error at the longest", ""],
        [_tell_law(contents, model) for model in losses],
        "lrrrrl",
        "In brackets: the bootstrap's 95 % interval, over documents and residuals of the law.",
    )
    table = Table(["context", *losses], rows, "r" * (1 + len(losses)), caption)
    return Section("context", "Loss by context", lead, [table, laws])


def _find(scores: list[Score], tokens: int) -> str:
    return next((_tell(score, ".4f") for score in scores if score.context_tokens == tokens), "")


def _tell(score: Score, form: str) -> str:
    return f"{score.value:{form}}\n[{score.low:{form}}, {score.high:{form}}]"


def _tell_law(contents: Contents, model: str) -> list[str | TableCell]:
    found = {score.task.removeprefix(_TASK): score for score in contents.find_scores(_TASK, model=model)}
    told = [_tell(found[name], ".4g") if name in found else "" for name in _PARAMETERS]
    error = f"{found['held_out_error'].value:.2%}" if "held_out_error" in found else ""
    verdict = TableCell("accepted", "pass") if "beta" in found else TableCell("refused", "open")
    return [model, *told, error, verdict]
