"""A run in time, event by event: steps of unequal work, slow ranks, saves, failures and restarts.

A step is as slow as its slowest data rank, which has the longest documents or a device that has become slow. A failure
of any rank ends the step; the run starts again from the last save. The loop takes the next event from a heap, so two
kinds of event never need to know each other. It is for runs of thousands of ranks, which no machine here can show.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from ropewalk.core.quantity import format_count, format_seconds
from ropewalk.plan.flops import count_document_pairs
from ropewalk.plan.plan import Plan

_HOURS = 3600.0
_DRAWN = 4096
"""Sequences whose work is drawn once; the steps draw from them."""

Event = Literal["step", "failure", "slow", "well"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What may happen to ranks; seconds and hours of wall time.

    ``failure_hours`` is the mean time between failures of one rank. Llama 3's run had one failure of a rank in 50,700
    hours (2407.21783).
    """

    ranks: int
    failure_hours: float = 50_700.0
    restart_seconds: float = 480.0
    """From a failure to the first step again: it is noticed, a rank is replaced, the save is read."""
    save_seconds: float = 10.0
    """That a save keeps the ranks from training."""
    slow_hours: float = math.inf
    """Mean time until one rank becomes slow."""
    slowness: float = 1.3
    """Time of a slow rank over that of the others."""
    slow_lasts_hours: float = 1.0
    """Until a slow rank is found and replaced."""

    @property
    def failure_seconds(self) -> float:
        """Mean time between failures of any rank."""
        return self.failure_hours * _HOURS / self.ranks

    @property
    def best_save_seconds(self) -> float:
        """The training between two saves that loses least, by Young and Daly: sqrt(2 save_seconds failure_seconds)."""
        return math.sqrt(2 * self.save_seconds * self.failure_seconds) - self.save_seconds


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a run: their number, their seconds with equal work on all data ranks, and how unequal it is.

    ``work`` are relative costs of sequences with a mean of 1; each data rank takes ``sequences`` of them in a step.
    """

    count: int
    seconds: float
    data_ranks: int = 1
    sequences: int = 1
    work: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a run came to, in seconds of wall time. ``ideal_seconds`` are those of equal work and no events."""

    seconds: float
    ideal_seconds: float
    failures: int
    lost_seconds: float
    """Of steps that were done again, and of the time until they began."""
    saving_seconds: float
    slow_seconds: float
    """What unequal work and slow ranks added to the steps that count."""

    @property
    def effective_share(self) -> float:
        """Share of the time that was spent on steps that count, slow or not."""
        return (self.ideal_seconds + self.slow_seconds) / self.seconds


def simulate_run(steps: Steps, cluster: Cluster, *, save_steps: int, seed: int = 0) -> Simulated:
    """Run ``steps`` on ``cluster`` with a save after every ``save_steps`` steps.

    Nothing fails during a restart. Failures of ranks are independent and do not age.
    """
    assert save_steps >= 1
    draw = np.random.default_rng(seed)
    events: list[tuple[float, int, Event]] = []
    order = 0  # of two events at one time the earlier entry comes first

    def plan_event(after: float, kind: Event) -> None:
        nonlocal order
        if math.isfinite(after):
            heapq.heappush(events, (after, order, kind))
            order += 1

    plan_event(draw.exponential(cluster.failure_seconds), "failure")
    slow_mean = cluster.slow_hours * _HOURS / cluster.ranks
    plan_event(draw.exponential(slow_mean) if math.isfinite(slow_mean) else math.inf, "slow")
    lengths = _StepLengths(steps, draw)
    now, done, saved, slow_ranks, failures = 0.0, 0, 0, 0, 0
    saving = lost = slow = slow_since_save = 0.0
    kept_from = 0.0  # when the work began that is not saved yet
    while done < steps.count:
        busy = lengths.draw_step() * (cluster.slowness if slow_ranks else 1.0)
        saves = cluster.save_seconds if (done + 1 - saved) == save_steps or done + 1 == steps.count else 0.0
        end, failed = now + busy + saves, False
        while events and events[0][0] < end and not failed:
            when, _, kind = heapq.heappop(events)
            if kind == "slow":
                slow_ranks += 1
                plan_event(when + cluster.slow_lasts_hours * _HOURS, "well")
                plan_event(when + draw.exponential(slow_mean), "slow")
            elif kind == "well":
                slow_ranks -= 1
            else:
                failed, failures = True, failures + 1
                now = when + cluster.restart_seconds
                plan_event(now + draw.exponential(cluster.failure_seconds), "failure")
        if failed:
            lost += now - kept_from
            done, slow_since_save, kept_from = saved, 0.0, now
            continue
        now, done = end, done + 1
        slow_since_save += busy - steps.seconds
        if saves:
            saving, slow, slow_since_save = saving + saves, slow + slow_since_save, 0.0
            saved, kept_from = done, now
    return Simulated(now, steps.count * steps.seconds, failures, lost, saving, slow)


def simulate_plan(
    plan: Plan, *, save_steps: int, work: Sequence[float] = (1.0,), cluster: Cluster | None = None
) -> str:
    """A line on the stage of ``plan`` with failures and restarts.

    ``work`` is that of the corpus' sequences (``weigh_sequences``). ``cluster`` None has the rates of Llama 3's run.
    """
    cluster = cluster or Cluster(plan.ranks)
    data_ranks = plan.ranks // plan.context_ranks
    sequences = max(1, round(plan.step_tokens / plan.context_tokens / data_ranks))
    steps = Steps(plan.steps, plan.step_seconds, data_ranks, sequences, tuple(work))
    best = min(plan.steps, max(1, round(cluster.best_save_seconds / plan.step_seconds)))
    told = [_tell_run(steps, cluster, save_steps) or _tell_endless(steps, cluster, save_steps)]
    if better := _tell_share(steps, cluster, best):
        told.append(f"{better} every {format_count(best, 'step')}, the best by Young and Daly")
    return "; ".join(told)


def expect_growth(steps: Steps, cluster: Cluster, save_steps: int) -> float:
    """The mean wall time over that of the steps alone, by Daly's formula (2006), with equal work and no slow ranks."""
    apart, mean = min(save_steps, steps.count) * steps.seconds, cluster.failure_seconds
    exponent = min((apart + cluster.save_seconds) / mean, _MOST_EXPONENT)
    return (mean + cluster.restart_seconds) / apart * math.expm1(exponent)


_MOST_GROWTH, _MOST_EXPONENT = 20.0, 100.0
"""A run that takes 20 times as long as its steps is not simulated: that would take as many steps here."""


def _tell_run(steps: Steps, cluster: Cluster, save_steps: int) -> str:
    """What a run comes to; empty where it comes to no end."""
    if expect_growth(steps, cluster, save_steps) > _MOST_GROWTH:
        return ""
    found = simulate_run(steps, cluster, save_steps=save_steps)
    return (
        f"{format_seconds(found.seconds)} with {format_count(found.failures, 'failure')}, "
        f"{found.effective_share:.0%} of it effective, saved every {format_count(save_steps, 'step')}"
    )


def _tell_endless(steps: Steps, cluster: Cluster, save_steps: int) -> str:
    apart = min(save_steps, steps.count) * steps.seconds
    return (
        f"failures hold it up for more than {_MOST_GROWTH:g} times its own time: one comes every "
        f"{format_seconds(cluster.failure_seconds)}, and {format_count(save_steps, 'step')} between saves take "
        f"{format_seconds(apart)}"
    )


def _tell_share(steps: Steps, cluster: Cluster, save_steps: int) -> str:
    """The effective share of a run; empty where it comes to no end."""
    if expect_growth(steps, cluster, save_steps) > _MOST_GROWTH:
        return ""
    return f"{simulate_run(steps, cluster, save_steps=save_steps).effective_share:.0%}"


class _StepLengths:
    """Draws the seconds of steps: the slowest data rank's, of sequences of unequal work."""

    def __init__(self, steps: Steps, draw: np.random.Generator) -> None:
        self._steps, self._draw = steps, draw
        self._work: Float64[np.ndarray, drawn] = np.asarray(steps.work, dtype=np.float64)
        self._work = self._work / self._work.mean()
        self._ready: list[float] = []

    def draw_step(self) -> float:
        """Seconds of one step."""
        if len(self._work) == 1:
            return self._steps.seconds
        if not self._ready:
            ranks, each = self._steps.data_ranks, self._steps.sequences
            for _ in range(max(1, _DRAWN // (ranks * each))):
                drawn = np.sort(self._work[self._draw.integers(len(self._work), size=(each, ranks))], axis=None)
                dealt = drawn.reshape(each, ranks)
                dealt[1::2] = dealt[1::2, ::-1]  # light sequences beside heavy ones, as a run deals them out
                self._ready.append(self._steps.seconds * float(dealt.mean(axis=0).max()))
        return self._ready.pop()


def weigh_sequences(
    document_tokens: Sequence[Sequence[int]], *, linear_flops: float, pair_flops: Mapping[int | None, float]
) -> tuple[float, ...]:
    """The relative work of sequences, from the lengths of their documents.

    ``linear_flops`` are those of one token, ``pair_flops`` those of one query with one key by the window of the layers
    (``count_pair_flops``).
    """
    work = []
    for lengths in document_tokens:
        attention = sum(flops * count_document_pairs(lengths, window) for window, flops in pair_flops.items())
        work.append(linear_flops * sum(lengths) + attention)
    mean = sum(work) / len(work)
    return tuple(each / mean for each in work)
