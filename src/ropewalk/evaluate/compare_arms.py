"""Compares the arms of a study: far loss, short-context loss, cost, paired differences, and the Pareto front.

Arms at one value of each axis read the same documents and prompts with the same seed, so their differences are taken
seed by seed: what a seed's documents add to every arm goes out. An interval is Student's over the seeds; one seed has
none. Many contrasts are printed side by side, and each has its own 95 %.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.core.strict_json import read_float
from ropewalk.evaluate.score import Interval, mean

Entry = Mapping[str, Any]
"""A cell of ``results.json``."""
Values = Mapping[tuple[str, int], float]
"""(task, context_tokens) -> value."""
_POSITION = re.compile(r"nll/position/(\d+)-(\d+)")
FAR, SHORT = "far loss", "short-context loss"


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """What one arm reached and took, at one value of each axis. Less of each is better."""

    kind: str
    arm: str
    choices: tuple[str, ...]
    far: Interval
    """Nats in the last positions of the arm's context."""
    short: Interval
    """Change of the loss at the base's length against the base, as a share; nan where no base is measured."""
    cost: float
    """FLOPs of training."""
    seeds: int
    best: bool = False
    """No other arm at these axis values is better in one and as good in the other two (Pareto)."""


def values_of(entry: Entry) -> dict[tuple[str, int], float]:
    """The values of a cell, without those of single depths; nan where ``results.json`` has null."""
    rows = (row for row in entry["scores"] if row[3] is None)
    return {(task, tokens): read_float(value) for task, _, tokens, _, _, value, *_ in rows}


def far_loss(entry: Entry) -> float:
    """Nats in the last positions that the arm was trained for; nan where the loss by position was not measured."""
    return _find_far(entry)[1]


def _find_far(entry: Entry) -> tuple[int, float]:
    """The end of the last measured positions within the arm's context, and the nats there; (0, nan) without any."""
    ends = {
        int(match[2]): value
        for (task, _), value in values_of(entry).items()
        if (match := _POSITION.fullmatch(task)) is not None
    }
    last = max((end for end in ends if end <= entry["context_tokens"]), default=0)
    return last, ends.get(last, math.nan)


def short_change(entry: Entry, base: Entry | None) -> float:
    """Mean change of the losses at the base's length against the base, as a share; nan without a base or losses."""
    if base is None:
        return math.nan
    before, after = values_of(base), values_of(entry)
    changes = [after[key] / before[key] - 1 for key in before if key[0].startswith("short/") and key in after]
    return math.fsum(changes) / len(changes) if changes else math.nan


def find_base(entry: Entry, cells: Iterable[Entry]) -> Entry | None:
    """The cell of the unchanged base with the same seed and axis values."""
    found = (each for each in cells if each["kind"] == "base")
    return next((each for each in found if (each["seed"], each["choices"]) == (entry["seed"], entry["choices"])), None)


def rank_arms(cells: Sequence[Entry]) -> list[ArmOutcome]:
    """Each arm's outcome at each value of the axes, with the Pareto front marked there."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[Entry]] = defaultdict(list)
    for cell in cells:
        if cell["arm"] is not None:
            groups[cell["kind"], cell["arm"], tuple(cell["choices"].values())].append(cell)
    outcomes = [
        ArmOutcome(
            *key,
            far=mean([far_loss(cell) for cell in group]),
            short=mean([short_change(cell, find_base(cell, cells)) for cell in group]),
            cost=read_float(group[0]["cost_flops"]),
            seeds=len(group),
        )
        for key, group in groups.items()
    ]
    return list(_mark_best(outcomes))


def _mark_best(outcomes: Sequence[ArmOutcome]) -> Iterator[ArmOutcome]:
    for one in outcomes:
        own = _measures(one)
        others = [_measures(other) for other in outcomes if other is not one and other.choices == one.choices]
        beaten = any(_beats(other, own) for other in others)
        values = (one.kind, one.arm, one.choices, one.far, one.short, one.cost, one.seeds)
        yield ArmOutcome(*values, best=not beaten)


def _measures(outcome: ArmOutcome) -> tuple[float | None, ...]:
    """Far loss, change of short loss and cost; None for what was not measured."""
    return tuple(None if math.isnan(value) else value for value in (outcome.far[0], outcome.short[0], outcome.cost))


def _beats(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    """True if ``one`` is better in one measure and as good in all. A measure that only one of them has proves nothing,
    so neither beats the other."""
    pairs = list(zip(one, other, strict=True))
    as_good = all(a == b or (a is not None and b is not None and a <= b) for a, b in pairs)
    return as_good and one != other


def contrast_arms(cells: Sequence[Entry], reference: str) -> list[dict[str, Any]]:
    """Each trained arm minus the arm ``reference`` for each task, paired by seed: value, low and high.

    ``far loss`` and ``short-context loss`` come first. Seeds that only one of the two has are left out.
    """
    groups: dict[str, dict[str, dict[int, Entry]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        if cell["kind"] == "trained":
            groups["/".join(cell["choices"].values())][cell["arm"]][cell["seed"]] = cell
    found = []
    for arms in groups.values():
        for arm, ours in arms.items():
            theirs = arms.get(reference, {})
            shared = [seed for seed in ours if seed in theirs]
            if arm == reference or not shared:
                continue
            pairs = [(_table(ours[seed], cells), _table(theirs[seed], cells)) for seed in shared]
            rows = [
                [*key, *mean([one[key] - other[key] for one, other in pairs])]
                for key in pairs[0][0]
                if all(key in one and key in other for one, other in pairs)
            ]
            choices = ours[shared[0]]["choices"]
            found.append({"arm": arm, "minus": reference, "choices": choices, "seeds": len(shared), "scores": rows})
    return found


def _table(cell: Entry, cells: Sequence[Entry]) -> Values:
    tokens = cell["context_tokens"]
    own = {(FAR, tokens): far_loss(cell), (SHORT, tokens): short_change(cell, find_base(cell, cells))}
    return {key: value for key, value in (own | values_of(cell)).items() if not math.isnan(value)}


def find_hopeless(
    cells: Sequence[Entry], *, seeds: Sequence[int], far_nats: float, short: float
) -> dict[tuple[str, tuple[str, ...]], str]:
    """(arm, values of the axes) -> an arm that was better there in each of the first ``seeds``.

    Better: far loss lower by more than ``far_nats``, and short-context loss higher by at most ``short``. Arms whose far
    losses end at different positions, and arms that lack a value, are not compared.
    """
    places = dict.fromkeys(tuple(cell["choices"].values()) for cell in cells)
    found = {}
    for place in places:
        arms: dict[str, dict[int, tuple[int, float, float]]] = defaultdict(dict)
        for cell in cells:
            if cell["kind"] == "trained" and tuple(cell["choices"].values()) == place:
                arms[cell["arm"]][cell["seed"]] = *_find_far(cell), short_change(cell, find_base(cell, cells))
        for arm, own in arms.items():
            for other, its in arms.items():
                pairs = [(own[seed], its[seed]) for seed in seeds if seed in own and seed in its]
                if len(pairs) == len(seeds) and all(
                    theirs[0] == mine[0] and theirs[1] < mine[1] - far_nats and theirs[2] <= mine[2] + short
                    for mine, theirs in pairs
                ):
                    found[arm, place] = other
                    break
    return found
