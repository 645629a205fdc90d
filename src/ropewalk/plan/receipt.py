"""The record of what a stage took: its work, speed, memory, bytes and energy, with what is needed to compare two.

A receipt is plain data. ``ropewalk receipt`` makes one from a run folder, and a benchmark makes one for each side of a
comparison. ``software`` names who computed attention, from a closed list, so that a ratio always has a named baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount
from ropewalk.core.read_json import read_written
from ropewalk.core.strict_json import spell_json
from ropewalk.plan.flops import BACKWARD_ATTENTION, BACKWARD_LINEAR, BlockShare, Recompute, count_passes

AttentionSoftware = Literal[
    "ropewalk",
    "transformers packed",
    "torch ring, all pairs",
    "torch ring, document-true zigzag, equal recompute",
    "Ulysses",
]
"""Who computed attention. Each but the first is a baseline that users have; Ulysses is DeepSpeed's or ringmaster's."""

SOFTWARE: tuple[str, ...] = get_args(AttentionSoftware)
ENOUGH_STEPS = 20
"""Percentiles of fewer steps are told, but they are no claim."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The median, and the values below which 10 % and 90 % lie, of ``count`` values."""

    median: float
    p10: float
    p90: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Percentiles":
        """Those of ``values``, of which there is at least one."""
        low, middle, high = np.percentile(np.asarray(values, dtype=np.float64), (10, 50, 90)).tolist()
        return cls(middle, low, high, len(values))


@dataclass(frozen=True, slots=True)
class Sequences:
    """The text of the stage. Two receipts with the same ``digest`` read the same tokens in the same order."""

    digest: str
    context_tokens: int
    step_tokens: int
    seed: int
    lengths: Mapping[str, int]
    """The number of documents, as packed, by length in tokens: powers of two, named as ``1Ki-2Ki``."""


@dataclass(frozen=True, slots=True)
class Rig:
    """What computed: ``device`` of each of ``ranks`` ranks, ``context_ranks`` of which share a sequence."""

    device: str
    kind: Literal["cpu", "cuda"]
    ranks: int
    context_ranks: int
    peak_flops: float
    """The peak of all ranks together that MFU is a share of."""
    peak_source: str
    products_flops: float
    """Matrix products of one rank, measured at the start while all ranks compute."""
    attention_flops: float
    """Attention forward and backward of one rank, causal pairs only, measured likewise."""
    link_bytes_per_second: float | None
    """What each rank sends while all do, measured likewise; None with one rank."""
    power_watts: float | None = None
    """The limit that the driver enforces for one device; None where nothing tells it."""

    def describe_peak(self) -> str:
        """The peak as text, such as ``0.21 TFLOP/s measured``."""
        return f"{format_amount(self.peak_flops / 1e12)} TFLOP/s {self.peak_source}"


@dataclass(frozen=True, slots=True)
class StepTotals:
    """The mean work of one step over all ranks. FLOPs are of one forward pass."""

    linear_flops: float
    attention_flops: float
    """Of the pairs that were computed."""
    true_attention_flops: float
    """Of the pairs that causal attention within documents needs."""
    balance: float
    """The busiest rank's attention over the mean."""
    recompute: Recompute
    recompute_blocks: int | None = None
    """The first blocks that are recomputed; None is all."""
    linear_again: float = 1.0
    """The part of products that lies in them."""
    attention_again: float = 1.0
    """The part of attention that lies in them."""


@dataclass(frozen=True, slots=True)
class StageReceipt:
    """One stage, or one side of a benchmark. Times are of a whole step, as the slowest rank sees it."""

    sequences: Sequences
    precision: str
    first_loss: float
    totals: StepTotals
    rig: Rig
    tokens_per_second: Percentiles
    mfu: float
    """Median model FLOPs, causal and within documents, over the rig's peak."""
    peak_bytes: float
    """Of the rank that held most: of the allocator on a GPU, of the process on a CPU."""
    attention_bytes: float
    """Sent for attention by the busiest rank in a step."""
    state_bytes: float
    """Sent for weights and gradients by a rank in a step, by the formula of the plan."""
    joules: float | None
    """Median energy of a step, all devices; None where no device counts it."""
    planned: Mapping[str, float]
    """The forecast of the same figures, before the stage."""

    @property
    def step_seconds(self) -> float:
        """The median step."""
        return self.sequences.step_tokens / self.tokens_per_second.median

    @property
    def useful_share(self) -> float:
        """The share of the computed attention that the mask needs."""
        return self.totals.true_attention_flops / self.totals.attention_flops if self.totals.attention_flops else 1.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """A whole run, stage by stage, with the versions and digests that identify it."""

    name: str
    software: AttentionSoftware
    version: str
    """The version of ``software``."""
    model: str
    model_digest: str
    """Of the files or weights that the first stage began with."""
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    stages: Sequence[StageReceipt]

    def to_json(self) -> dict[str, Any]:
        """The receipt as plain JSON."""
        return asdict(self)


def compute_seconds(totals: StepTotals, rig: Rig) -> tuple[float, float]:
    """Seconds of the busiest rank's products and attention in a step, at the rates that were measured at the start."""
    share = BlockShare(linear=totals.linear_again, attention=totals.attention_again)
    linear, attention = count_passes(totals.recompute, share)
    products = totals.linear_flops * (linear + BACKWARD_LINEAR) / rig.ranks / rig.products_flops
    pairs = totals.attention_flops * (attention + BACKWARD_ATTENTION) / rig.ranks * totals.balance
    return products, pairs / rig.attention_flops


def read_receipt(path: Path) -> Receipt:
    """Read a receipt that ``to_json`` made. Raises UserError where the file is none."""
    entry: Any = read_written(path)
    if isinstance(entry, dict) and entry.get("software") not in SOFTWARE:
        raise UserError(
            f"{entry.get('software')!r} is no known software",
            where=f"{path}: software",
            why="a ratio must name its baseline",
            fix=f"one of {'; '.join(SOFTWARE)}",
        )
    return read_written(path, _parse)


def _parse(entry: Any) -> Receipt:
    return Receipt(**{**entry, "stages": [_parse_stage(stage) for stage in entry["stages"]]})


def _parse_stage(entry: Any) -> StageReceipt:
    kinds = {"sequences": Sequences, "totals": StepTotals, "rig": Rig, "tokens_per_second": Percentiles}
    return StageReceipt(**{**entry, **{name: kind(**entry[name]) for name, kind in kinds.items()}})


def spell_receipt(receipt: Receipt) -> str:
    """The text of a receipt's file."""
    return spell_json(receipt.to_json(), indent=1, ensure_ascii=False) + "\n"
