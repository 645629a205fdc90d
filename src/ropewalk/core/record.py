"""The records that rooms exchange, and the metrics that a run writes.

There are seven records: ``Recipe`` is in recipe/, ``TrainState`` in checkpoint/, the other five are here. Only one
place makes each of them.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt16, UInt32, UInt64

from ropewalk.core.artifact import write_whole
from ropewalk.core.read_json import read_written, read_written_lines
from ropewalk.core.strict_json import read_float, spell_json

Role = Literal["general", "domain", "instruction"]
ROLES: tuple[Role, ...] = ("general", "domain", "instruction")


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its origin. Made by corpus/read/source.

    ``loss_spans`` are the half-open character ranges whose tokens are trained on (an instruction's answers); None means
    all of the text. ``metadata`` is JSON-like.
    """

    text: str
    source: str
    role: Role
    language: str
    id: str
    loss_spans: tuple[tuple[int, int], ...] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shard:
    """One source's tokens, flat and memory-mapped. Made by corpus/tokens/store.

    Document ``i`` is ``tokens[ends[i - 1]:ends[i]]``; ``mask`` is 1 where a token may be a label.
    """

    tokens: UInt16[np.ndarray, "tokens"] | UInt32[np.ndarray, "tokens"]
    ends: UInt64[np.ndarray, "documents"]
    mask: UInt8[np.ndarray, "tokens"]
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed sequences of documents, before they are cut over context ranks. Made by corpus/mix/dataset.

    ``labels[r, t]`` is the token that follows ``tokens[r, t]`` in its document. ``weights[r, t]`` is 0 where there is
    no such token or where it is not trained on. ``positions`` restart at every document. ``document`` numbers a
    sequence's documents from 0, with -1 for padding. ``source`` is an index into the dataset's list of sources, -1 for
    padding.
    """

    tokens: Int32[np.ndarray, "sequences context"]
    labels: Int32[np.ndarray, "sequences context"]
    weights: Float32[np.ndarray, "sequences context"]
    positions: Int32[np.ndarray, "sequences context"]
    document: Int32[np.ndarray, "sequences context"]
    source: Int32[np.ndarray, "sequences context"]


@dataclass(frozen=True, slots=True)
class Score:
    """One measured figure of one model. Made by evaluate/.

    ``task`` is like ``nll/position/1536-2048``, ``retrieval/key_value`` or ``short/code``. ``value`` lies in [``low``,
    ``high``], its 95 % interval. ``n`` is the number of averaged tokens or answers. ``depth`` is the share of the
    context before the wanted fact, None for a task without depths. ``samples`` is the number of independent samples
    behind the interval: the documents of a loss, the prompts of an accuracy; None in a file of an older version.
    ``design_effect`` is set for accuracies: ``n / design_effect`` answers are independent.
    """

    model: str
    task: str
    metric: str
    context_tokens: int
    depth: float | None
    language: str | None
    n: int
    value: float
    low: float
    high: float
    samples: int | None = None
    design_effect: float | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of one step of training, named like ``loss/position/1024-2048`` or ``loss/source/law``."""

    stage: int
    step: int
    name: str
    value: float
    unit: str


_METRIC_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "stage": int,
    "step": int,
    "name": str,
    "value": (int, float),
    "unit": str,
}

TIMED = frozenset(
    {"tokens_per_second", "mfu", "peak_bytes", "joules", "seconds_left", "busy_imbalance", "slow_rank", "slow_ratio"}
)
"""Names of metrics that depend on the machine: only these differ if the same run is repeated."""


def append_metrics(path: Path, metrics: Iterable[Metric]) -> None:
    """Append metrics to a JSONL file, one line each; a value that is not finite is null."""
    with path.open("a") as file:
        file.writelines(spell_json(dataclasses.asdict(metric)) + "\n" for metric in metrics)


def read_metrics(path: Path) -> Iterator[Metric]:
    """Read metrics back; an incomplete last line, left by a kill, is skipped.

    Raises UserError for any other broken line.
    """
    yield from read_written_lines(
        path, _parse_metric, fix="correct the line, or remove it: only the metric in this line is then lost"
    )


def _parse_metric(entry: Any) -> Metric:
    metric = Metric(**{**entry, "value": read_float(entry["value"])})
    for name, kinds in _METRIC_TYPES.items():
        value = getattr(metric, name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
    return metric


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write scores as one JSON list; the file appears complete or not at all.

    null: a value that is not finite, or an end of an interval that does not exist (one sample has no spread).
    """
    write_whole(path, spell_json([dataclasses.asdict(score) for score in scores], indent=1) + "\n")


def read_scores(path: Path) -> list[Score]:
    """Read the scores that ``write_scores`` wrote. Raises UserError where the file cannot be read."""
    return read_written(path, lambda entries: [_parse_score(entry) for entry in entries])


def _parse_score(entry: Any) -> Score:
    """A score with the infinite ends that null stands for; older files have ``Infinity`` itself."""
    value = read_float(entry["value"])
    none = math.nan if math.isnan(value) else math.inf
    low, high = read_float(entry["low"], null=-none), read_float(entry["high"], null=none)
    return Score(**{**entry, "value": value, "low": low, "high": high})
