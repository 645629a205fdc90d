"""``vary`` of a study: keys of the recipe with several values each, all combined or drawn, as the study's arms.

A grid holds each combination once. A draw takes some of the combinations, or numbers of a range, by the study's own
seed; so the same file always has the same arms.
"""

import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ropewalk.core.quantity import format_count
from ropewalk.core.spec import Spec

Value = bool | int | float | str
Overrides = tuple[str, ...]
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]+")
_DIGITS = 4
_MOST_ARMS, _TRIES = 1000, 1000


class Range(Spec):
    """Numbers to draw from."""

    low: float
    """The smallest number."""
    high: float
    """The largest number."""
    scale: Literal["linear", "log"] = "linear"
    """``log`` draws the logarithm evenly, for learning rates and thetas."""

    @model_validator(mode="after")
    def _check_ends(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low, {self.low}, is not below high, {self.high}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low, {self.low}, must be above 0 on a logarithmic scale")
        return self

    def draw(self, numbers: random.Random) -> float:
        """A number of the range with four digits, so that its name tells it exactly."""
        if self.scale == "log":
            found = math.exp(numbers.uniform(math.log(self.low), math.log(self.high)))
        else:
            found = numbers.uniform(self.low, self.high)
        return min(max(float(f"{found:.{_DIGITS}g}"), self.low), self.high)


Vary = Mapping[str, Annotated[list[Value], Field(min_length=1)] | Range]


def make_arms(vary: Vary, *, draw: int | None, seed: int) -> dict[str, Overrides]:
    """Name -> overrides of each arm. ``draw`` None is the whole grid; else that many different combinations.

    Raises ValueError where a range is not drawn, where there are too few combinations, or where two arms have one name.
    """
    combinations = list(_draw(vary, draw, seed) if draw is not None else _multiply(vary))
    arms = {}
    for values in combinations:
        name = "_".join(_spell(key, value) for key, value in zip(vary, values, strict=True))
        if name in arms:
            raise ValueError(f"vary: two combinations would be named {name}; write them as arms with names")
        arms[name] = tuple(f"{key}={json.dumps(value)}" for key, value in zip(vary, values, strict=True))
    return arms


def _multiply(vary: Vary) -> Iterator[tuple[Value, ...]]:
    lists = []
    for key, values in vary.items():
        if isinstance(values, Range):
            raise ValueError(f"vary.{key} is a range: say with `draw` how many arms are drawn, or list its values")
        lists.append(values)
    count = math.prod(map(len, lists))
    if count > _MOST_ARMS:
        raise ValueError(f"vary: {count:,} combinations; list fewer values, or draw some with `draw`")
    return itertools.product(*lists)


def _draw(vary: Vary, count: int, seed: int) -> Iterator[tuple[Value, ...]]:
    limit = math.prod(math.inf if isinstance(values, Range) else len(set(values)) for values in vary.values())
    if count > limit:
        raise ValueError(
            f"draw: {format_count(count, 'arm')} of {format_count(round(limit), 'combination')}; leave `draw` out "
            "for all of them"
        )
    numbers, drawn = random.Random(seed), dict[tuple[Value, ...], None]()
    for _ in range(_TRIES * count):
        found = [each.draw(numbers) if isinstance(each, Range) else numbers.choice(each) for each in vary.values()]
        drawn[tuple(found)] = None
        if len(drawn) == count:
            return iter(drawn)
    raise ValueError(
        f"draw: found only {format_count(len(drawn), 'different arm')} for {count}; widen the ranges, or draw fewer"
    )


def _spell(key: str, value: Value) -> str:
    """``theta-1e6`` of ``stages.0.rope.theta``: what a folder can be named."""
    last = key.rpartition(".")[2]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return _FORBIDDEN.sub("-", f"{last}-{text}").strip("-")
