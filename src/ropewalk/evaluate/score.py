"""Scores from sums: values with 95 % intervals.

Losses are ratios of sums over documents. Tokens of one document are alike, so the interval comes from the spread
between documents. Usually documents are few and of different lengths, so the spread is the jackknife's and its quantile
is Student's. Accuracies have Wilson's interval, which stays inside [0, 1] also where all answers are right. Its sample
size is the effective number of answers, since answers of one prompt are dependent. Means over seeds have Student's
interval as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ropewalk.evaluate.student_t import LEVEL, Z, standard_errors

Interval = tuple[float, float, float]
"""(value, low, high)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its standard error, and the error's degrees of freedom; the error of a single sample is infinite."""

    value: float
    error: float
    freedom: int
    samples: int
    """Documents (or seeds) in the sample."""

    @property
    def interval(self) -> Interval:
        """The value with its 95 % interval, infinite where the error is infinite."""
        return self.interval_at(LEVEL)

    def interval_at(self, level: float) -> Interval:
        """The value with an interval that holds the truth at ``level``, such as 0.99."""
        half = standard_errors(self.freedom, level) * self.error
        return self.value, self.value - half, self.value + half


def _wilson(share: float, count: float) -> Interval:
    """The interval of a ``share`` of ``count`` > 0 independent answers (Wilson 1927)."""
    square = Z**2 / count
    middle = (share + square / 2) / (1 + square)
    half = Z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    # Rounding must not put the value outside its own interval.
    return share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def design_effect(
    correct: Float64[np.ndarray, "prompts"], count: Float64[np.ndarray, "prompts"], *, together: bool = False
) -> float:
    """How many answers are worth as much as one independent answer (Kish 1965), at least 1.

    ``n / design effect`` is the effective number of answers. A single prompt counts as one answer. If all are right or
    none, the effect cannot be seen. Then it is 1; or, if the answers of a prompt are known to be right ``together``,
    because they are one question asked several times, the mean number of answers of a prompt.
    """
    correct, count = correct[count > 0], count[count > 0]
    prompts, answers = len(count), float(count.sum())
    if prompts == 1:
        return answers
    share = float(correct.sum()) / answers
    alone = share * (1 - share) / (answers - 1)
    if not alone:  # if all are right, or none, there is no variance
        return answers / prompts if together else 1.0
    spread = float(np.square(correct - share * count).sum()) * prompts / (prompts - 1) / answers**2
    return max(1.0, spread / alone)


def wilson_of_prompts(
    correct: Float64[np.ndarray, "prompts"], count: Float64[np.ndarray, "prompts"], *, together: bool = False
) -> Interval:
    """``sum(correct) / sum(count)``, where answers of one prompt may be right or wrong together.

    Wilson's interval at n / design effect (Kish 1965). The effect is at least 1. With few prompts the effect itself is
    uncertain, so the effective n is smaller (Korn and Graubard 1998). One prompt counts as one answer. ``together``:
    as in ``design_effect``.
    """
    correct, count = correct[count > 0], count[count > 0]
    prompts, answers = len(count), float(count.sum())
    share = float(correct.sum()) / answers
    if prompts == 1:
        return _wilson(share, 1.0)
    worth = answers / design_effect(correct, count, together=together)
    worth *= (standard_errors(int(answers) - 1) / standard_errors(prompts - 1)) ** 2
    return _wilson(share, worth)


@dataclass(frozen=True, slots=True)
class ShareOfTask:
    """The share of right answers of one task, of which ``design_effect`` are worth one independent answer."""

    value: float
    answers: int
    design_effect: float
    samples: int
    """Prompts of the task."""

    @property
    def variance(self) -> float:
        """Of ``value``, without bias. What is all right, or all wrong, has the one of a quarter of an answer, and a
        single prompt the largest that there is."""
        if self.samples < 2:
            return 0.25
        return self.value * (1 - self.value) / (self.answers - 1) * self.design_effect or 0.25 / self.worth**2

    @property
    def worth(self) -> float:
        """The effective number of answers."""
        return self.answers / self.design_effect


def mean_of_shares(parts: Sequence[ShareOfTask]) -> Interval:
    """The mean of the shares of several tasks, each of which counts alike.

    Wilson's interval at the number of answers that has the mean's variance, so it stays inside [0, 1]. The half-widths
    of the tasks' own intervals give no variance: near 0 and 1 they are wider than the spread that they stand for.
    """
    value = math.fsum(part.value for part in parts) / len(parts)
    errors = [Estimate(part.value, math.sqrt(part.variance), max(1, part.samples - 1), part.samples) for part in parts]
    mean = mean_of(errors)
    worth = value * (1 - value) / mean.error**2 or len(parts) * min(part.worth for part in parts)
    return _wilson(value, worth * (Z / standard_errors(mean.freedom)) ** 2)


def ratio(total: Float64[np.ndarray, "documents"], count: Float64[np.ndarray, "documents"]) -> Estimate:
    """``sum(total) / sum(count)`` with documents as the sample (Cochran 1977, the ratio estimator).

    The interval is infinite where fewer than two documents count.
    """
    return difference((total, count), (np.zeros_like(total), count))


def difference(
    first: tuple[Float64[np.ndarray, "documents"], Float64[np.ndarray, "documents"]],
    second: tuple[Float64[np.ndarray, "documents"], Float64[np.ndarray, "documents"]],
) -> Estimate:
    """The ratio of ``first`` minus that of ``second``, each a (total, count) over the same documents, in pairs.

    The error is the jackknife's: it uses the value without each document (Tukey 1958). Degrees of freedom are those of
    the equivalent number of documents of equal length (Kish 1965): one book and many short notes are hardly more than
    one sample.
    """
    there = (first[1] > 0) | (second[1] > 0)
    documents = int(there.sum())
    value, without, alike = 0.0, np.zeros(documents), float(documents)
    for sign, (total, count) in ((1, first), (-1, second)):
        total, count = total[there], count[there]
        assert count.sum() > 0
        value += sign * float(total.sum() / count.sum())
        left = count.sum() - count
        if not left.all():
            without = np.full(documents, np.nan)  # one document holds all the tokens of a ratio
            continue
        without += sign * (total.sum() - total) / left
        alike = min(alike, float(count.sum() ** 2 / np.square(count).sum()))
    if documents < 2 or np.isnan(without).any():
        return Estimate(value, math.inf, 1, documents)
    error = math.sqrt(float(np.square(without - value).sum()) * (documents - 1) / documents)
    return Estimate(value, error, max(1, round(alike) - 1), documents)


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates; degrees of freedom after Welch (1947)."""
    squares = [part.error**2 for part in parts]
    value, total = math.fsum(part.value for part in parts) / len(parts), math.fsum(squares)
    samples = sum(part.samples for part in parts)
    if math.isinf(total):
        return Estimate(value, math.inf, 1, samples)
    shares = math.fsum(square**2 / part.freedom for square, part in zip(squares, parts, strict=True))
    freedom = int(total**2 / shares * (1 + 1e-9)) if shares else 1  # 7 degrees must not become 6.999... and then 6
    return Estimate(value, math.sqrt(total) / len(parts), freedom, samples)


def largest_of(parts: Sequence[Estimate]) -> Interval:
    """The largest of several truths, with its 95 % interval.

    Each part has its own interval at 1 - 0.05 / parts (Bonferroni), so all hold together at 95 %, and the largest truth
    lies between the largest low end and the largest high end.
    """
    intervals = [part.interval_at(1 - (1 - LEVEL) / len(parts)) for part in parts]
    values, lows, highs = zip(*intervals, strict=True)
    return max(values), max(lows), max(highs)


def mean(values: Sequence[float]) -> Interval:
    """The mean of repeats of one measurement (seeds), with Student's interval (1908); infinite for a single value."""
    assert values
    value, count = math.fsum(values) / len(values), len(values)
    if count == 1:
        return value, -math.inf, math.inf
    error = math.sqrt(math.fsum((each - value) ** 2 for each in values) / (count - 1) / count)
    return Estimate(value, error, count - 1, count).interval
