"""The targets of a run, and a verdict on each.

Six measures show that a longer context works. Text must be easier with its whole context than with the base's.
Retrieval must hold at the old length, be gained at the new one, and is reported beyond it. The loss at far positions
must be no worse than at near ones. Held-out text must be no harder than before, and neither must text outside the mix.
A target that lies inside a measure's 95 % interval is undecided: more documents or answers would decide it. The
packaged base has bounds of its own, because a base that already succeeds at 4x would make the run prove nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ropewalk.core.quantity import format_length
from ropewalk.core.record import Score
from ropewalk.report.contents import Contents
from ropewalk.report.target import Outcome, RelativeChange, Unit, Verdict

RETRIEVAL = "retrieval/key_value"
PARITY = 1e-5
"""Largest norm-relative difference of logits between the export and plain transformers."""

_TINY_BASE_RETRIEVAL = {1: (">=", 0.95), 4: ("<=", 0.65), 8: ("<=", 0.50)}
_TINY_BASE_GAP = (">=", 0.2)
_GAP = ("<=", 0.05)
_GAIN = ("<=", -0.001)
"""Below 0 by more than rounding: a model that cannot see farther reads both alike."""
RETRIEVAL_LIMIT = 0.95
"""Smallest share of right answers at a length that was trained."""
SHORT_LIMIT, FOREIGN_LIMIT = 0.02, 0.01
"""Largest change of the loss: on held-out text of the mix, and on text outside of it."""

_SEVERITY: dict[Outcome | None, int] = {"missed": 2, "undecided": 1, "met": 0, None: 0}


def judge_measures(contents: Contents) -> list[Verdict]:
    """The verdict on every measure that the run's scores allow, in the order of the summary."""
    if not contents.scores or contents.base_context_tokens is None:
        return []
    judges = _judge_gain, _judge_retrieval, _judge_gap, _judge_short, _judge_foreign
    return [verdict for judge in judges for verdict in judge(contents)]


def _judge_gain(contents: Contents) -> Iterator[Verdict]:
    """The first question: is the same text easier with its whole context than with the base's?"""
    for model in contents.models:
        for score in contents.find_scores("gain/context", model=model):
            assert contents.base_context_tokens is not None
            whole, window = (format_length(tokens) for tokens in (score.context_tokens, contents.base_context_tokens))
            name = f"context gain: loss with {whole} minus loss with {window}"
            bound = _GAIN if model == "extended" else None
            yield _judge_change("gain/context", name, model, "nats", _change_of(score), bound)


def _judge_retrieval(contents: Contents) -> Iterator[Verdict]:
    base_tokens = contents.base_context_tokens
    assert base_tokens is not None
    trained_tokens = contents.context_tokens
    whole = {
        (score.model, score.context_tokens): score
        for score in contents.scores
        if score.task == RETRIEVAL and score.depth is None
    }
    lengths = sorted({tokens for _, tokens in whole})
    stretched = trained_tokens > base_tokens
    chosen = [tokens for tokens in lengths if tokens in (base_tokens, trained_tokens)]
    chosen += [tokens for tokens in lengths[-1:] if tokens > trained_tokens and stretched]
    for tokens in chosen:
        multiple = tokens / base_tokens
        never = ", never trained" if tokens > trained_tokens else ""
        name = f"retrieval at {multiple:g}x ({format_length(tokens)}{never})"
        for model in contents.models:
            if (score := whole.get((model, tokens))) is None:
                continue
            bound: tuple[str, float] | None = (">=", 0.90 if never else RETRIEVAL_LIMIT)
            if model != "extended":
                own = contents.is_tiny_base and model == "base"
                bound = _TINY_BASE_RETRIEVAL.get(int(multiple)) if own else None
            yield Verdict(
                f"retrieval/{multiple:g}x", name, model, "share", score.value, score.low, score.high, bound,
                aim=bool(never) and model == "extended", samples=score.samples,
            )  # fmt: skip


def _judge_gap(contents: Contents) -> Iterator[Verdict]:
    base_tokens = contents.base_context_tokens
    assert base_tokens is not None
    for model in contents.models:
        if contents.context_tokens <= base_tokens:
            return
        found = _find_gap(contents, model, base_tokens)
        if found is None:
            continue
        tokens, change = found
        never = tokens > contents.context_tokens
        name = f"loss, last quarter of {tokens / base_tokens:g}x{' (never trained)' * never} minus that of 1x"
        bound: tuple[str, float] | None = _GAP
        if model != "extended":
            bound = _TINY_BASE_GAP if contents.is_tiny_base and model == "base" else None
        verdict = _judge_change("nll/gap", name, model, "nats", change, bound)
        yield replace(verdict, aim=never and model == "extended")


def _judge_change(
    key: str, name: str, model: str, unit: Unit, change: RelativeChange, bound: tuple[str, float] | None
) -> Verdict:
    return Verdict(key, name, model, unit, change.value, change.low, change.high, bound, samples=change.samples)


def _find_gap(contents: Contents, model: str, base_tokens: int) -> tuple[int, RelativeChange] | None:
    """(far length in tokens, difference): measured in pairs up to the trained length, else from the buckets.

    A difference that was measured beyond the trained length only is given where the buckets do not end at that length.
    """
    found = contents.find_scores("nll/gap", model=model)
    measured = (found[-1].context_tokens, _change_of(found[-1])) if found else None
    if measured is not None and measured[0] <= contents.context_tokens:
        return measured
    buckets = position_buckets(contents, model)
    reached = [end for _, end, _ in buckets if base_tokens < end <= contents.context_tokens]
    if not reached:
        return measured
    end = max(reached)
    near = _mean_over(buckets, base_tokens * 3 // 4, base_tokens)
    far = _mean_over(buckets, max(end * 3 // 4, base_tokens), end)  # as loss_by_position: all beyond the base at least
    return measured if near is None or far is None else (end, RelativeChange(far - near))


def position_buckets(contents: Contents, model: str) -> list[tuple[int, int, Score]]:
    """(first position, end, score) of each bucket of loss by position, in order."""
    found = []
    for score in contents.find_scores("nll/position/", model=model):
        first, _, end = score.task.removeprefix("nll/position/").partition("-")
        if first.isdigit() and end.isdigit() and math.isfinite(score.value):
            found.append((int(first), int(end), score))
    return sorted(found, key=lambda bucket: bucket[:2])


def _mean_over(buckets: Sequence[tuple[int, int, Score]], first: int, end: int) -> float | None:
    """The mean loss of positions [first, end); None unless whole buckets cover them."""
    inside = [(low, high, score) for low, high, score in buckets if first <= low and high <= end]
    tokens = sum(score.n for *_, score in inside)
    if not tokens or sum(high - low for low, high, _ in inside) != end - first:
        return None
    return sum(score.value * score.n for *_, score in inside) / tokens


def short_changes(contents: Contents) -> dict[str, RelativeChange]:
    """The change of held-out loss at the short context by source: measured in pairs, or else from the two losses."""
    if measured := read_changes(contents, "short"):
        return measured
    before = {score.task: score.value for score in contents.find_scores("short/", model="base")}
    after = contents.find_scores("short/", model="extended")
    pairs = [(score.task.removeprefix("short/"), score.value, before.get(score.task)) for score in after]
    return {name: RelativeChange(value / base - 1) for name, value, base in pairs if base}


def read_changes(contents: Contents, kind: str) -> dict[str, RelativeChange]:
    """The changes of the trained model's loss that were measured in pairs, by source."""
    prefix = f"change/{kind}/"
    return {
        score.task.removeprefix(prefix): _change_of(score) for score in contents.find_scores(prefix, model="extended")
    }


def _change_of(score: Score) -> RelativeChange:
    return RelativeChange(score.value, score.low, score.high, score.samples)


def _judge_short(contents: Contents) -> Iterator[Verdict]:
    """The worst source misses the target, else it may miss it, else it has the largest change."""
    changes = short_changes(contents)
    if not changes:
        return
    bound = ("<=", SHORT_LIMIT)
    each = [
        _judge_change("short/worst", f"short-context loss, worst source ({name})", "extended", "change", change, bound)
        for name, change in changes.items()
    ]
    yield max(each, key=lambda verdict: (_SEVERITY[verdict.outcome], verdict.value))
    measured = contents.find_scores("change/short_mean", model="extended")
    mean = (
        _change_of(measured[0]) if measured else RelativeChange(sum(c.value for c in changes.values()) / len(changes))
    )
    name = f"short-context loss, mean of {len(changes)} source{'s' * (len(changes) > 1)}"
    yield _judge_change("short/mean", name, "extended", "change", mean, bound)


def _judge_foreign(contents: Contents) -> Iterator[Verdict]:
    """Forgetting: the loss on text that the mix does not have, in the text that training made worst.

    The other models are asked for the same text. The interval is that of all texts together.
    """
    changes = read_changes(contents, "foreign")
    worst = contents.find_scores("change/foreign_worst", model="extended")
    if not worst:
        return
    source = next((name for name, change in changes.items() if change.value == worst[0].value), "")
    for model in contents.models:
        found = worst if model == "extended" else contents.find_scores(f"change/foreign/{source}", model=model)
        if found:
            name = f"forgetting: loss on text outside the mix, worst text ({source})"
            bound = ("<=", FOREIGN_LIMIT) if model == "extended" else None
            yield _judge_change("foreign/worst", name, model, "change", _change_of(found[0]), bound)
