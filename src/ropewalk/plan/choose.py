"""The forecast of a run: steps, arithmetic, time, memory and traffic, and what to recompute so that it fits.

An estimate to choose by, not a promise: rates are taken as constant and everything that is not matrix products,
attention or traffic as free. Without recomputation a step is up to 1.3 times faster, so it is left out where it fits.
"""

import math
from dataclasses import dataclass
from typing import Literal

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount, format_bytes, format_length
from ropewalk.plan.flops import Recompute, TokenFlops, token_flops
from ropewalk.plan.hardware import KNOWN, Machine
from ropewalk.plan.memory import STATE_BYTES, Memory, estimate_memory
from ropewalk.plan.traffic import Exchange, attention_traffic, state_traffic
from ropewalk.shape.model_shape import ModelShape

USABLE_MEMORY = 0.92
"""Share of a device's memory that a run may plan with; the formulas fall 3 to 5 GB short on a card of 150."""


@dataclass(frozen=True, slots=True)
class Split:
    """How ranks share the work, and in which precision.

    ``imbalance`` is the busiest rank's attention work over the mean; ``needed_share`` the share of the others' key rows
    that a rank needs. Both are known once a batch is partitioned.
    """

    context_ranks: int = 1
    exchange: Exchange = "needed"
    recompute: Literal["auto"] | Recompute = "auto"
    micro_rows: int = 1
    element_bytes: int = 2
    loss_chunk_tokens: int = 1024
    imbalance: float = 1.0
    needed_share: float = 1.0
    state_bytes: float = STATE_BYTES


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will cost. Bytes are one rank's; ``fits`` says whether its peak stays below what it may use."""

    context_tokens: int
    tokens: int
    steps: int
    step_tokens: int
    ranks: int
    flops: TokenFlops
    recompute: Recompute
    memory: Memory
    fits: bool
    context_bytes: float
    """Sent per step for attention."""
    state_bytes: float
    """Sent per step for sharded weights and gradients."""
    step_seconds: float
    machine: Machine

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds

    @property
    def tokens_per_second(self) -> float:
        return self.step_tokens / self.step_seconds

    @property
    def run_flops(self) -> float:
        """Model FLOPs of all steps."""
        return self.flops.model * self.steps * self.step_tokens

    def rows(self) -> list[tuple[str, str]]:
        """The plan as people read it: name and figure."""
        return [
            ("row", f"{format_length(self.context_tokens)} tokens"),
            ("steps", f"{self.steps:,} of {format_amount(self.step_tokens)} tokens"),
            (
                "arithmetic",
                f"{format_amount(self.flops.model)} FLOP per token, {self.flops.attention_share:.0%} attention",
            ),
            ("speed", f"{format_amount(self.tokens_per_second)} tokens/s on {self.ranks} x {self.machine.name}"),
            ("time", f"{self.seconds / 3600:.3g} h"),
            ("memory", f"{format_bytes(self.memory.peak_bytes)} per rank, recompute {self.recompute}"),
            ("fits", f"{'yes' if self.fits else 'no'}, {format_bytes(self.machine.memory_bytes)} per rank"),
            ("sent", f"{format_bytes(self.context_bytes)} for attention, {format_bytes(self.state_bytes)} for states"),
        ]


def forecast(
    shape: ModelShape,
    *,
    context_tokens: int,
    tokens: int,
    step_tokens: int | None = None,
    ranks: int = 1,
    pair_share: float = 1.0,
    split: Split | None = None,
    machine: Machine = KNOWN["h200"],
) -> Plan:
    """Forecast a run of ``tokens`` in rows of ``context_tokens`` on ``ranks`` ranks.

    ``step_tokens`` is rounded down to whole rows for all data ranks, at least one each; None means exactly that.
    ``pair_share`` is flops.share_of_pairs of a typical row. Raises UserError if the ranks cannot be split so.
    """
    split = split or Split()
    if ranks % split.context_ranks:
        raise UserError(
            "the ranks cannot be split",
            where="parallel",
            why=f"{ranks} ranks are not a multiple of {split.context_ranks} context ranks",
            fix="change parallel.ranks or parallel.context",
        )
    data_ranks = ranks // split.context_ranks
    wave_tokens = data_ranks * split.micro_rows * context_tokens
    waves = max(1, (step_tokens or 0) // wave_tokens)
    flops = token_flops(shape, context_tokens, pair_share=pair_share)
    recompute, memory = _fit(shape, context_tokens, ranks=ranks, split=split, machine=machine)
    context_bytes = waves * _context_bytes(shape, context_tokens, split=split, recompute=recompute)
    state_bytes = waves * state_traffic(shape, ranks=ranks, element_bytes=split.element_bytes)
    linear_seconds, attention_seconds = flops.seconds(
        recompute,
        matmul=machine.matmul_flops,
        forward=machine.attention_forward_flops,
        backward=machine.attention_backward_flops,
    )
    rank_tokens = waves * wave_tokens / ranks
    # Keys travel while tiles are computed, and weights while the layer before them is: only the excess costs time.
    attention = max(rank_tokens * attention_seconds * split.imbalance, context_bytes / machine.link_bytes_per_second)
    linear = max(rank_tokens * linear_seconds, state_bytes / machine.link_bytes_per_second)
    return Plan(
        context_tokens=context_tokens,
        tokens=tokens,
        steps=math.ceil(tokens / (waves * wave_tokens)),
        step_tokens=waves * wave_tokens,
        ranks=ranks,
        flops=flops,
        recompute=recompute,
        memory=memory,
        fits=memory.peak_bytes <= USABLE_MEMORY * machine.memory_bytes,
        context_bytes=context_bytes,
        state_bytes=state_bytes,
        step_seconds=attention + linear,
        machine=machine,
    )


def _context_bytes(shape: ModelShape, context_tokens: int, *, split: Split, recompute: Recompute) -> float:
    """Sent by one rank for attention in all layers of one micro-batch."""
    layer = attention_traffic(
        shape,
        context_tokens * split.micro_rows,
        ranks=split.context_ranks,
        exchange=split.exchange,
        element_bytes=split.element_bytes,
        needed_share=split.needed_share,
    )
    return shape.layers * layer.training_bytes(forwards=2 if recompute == "full" else 1)


def _fit(
    shape: ModelShape, context_tokens: int, *, ranks: int, split: Split, machine: Machine
) -> tuple[Recompute, Memory]:
    """The least recomputation whose memory fits, or the most there is."""
    ways: tuple[Recompute, ...] = ("none", "full") if split.recompute == "auto" else (split.recompute,)
    for way in ways:
        memory = estimate_memory(
            shape,
            math.ceil(context_tokens * split.micro_rows / split.context_ranks),
            ranks=ranks,
            recompute=way,
            element_bytes=split.element_bytes,
            loss_chunk_tokens=split.loss_chunk_tokens,
            state_bytes=split.state_bytes,
        )
        if memory.peak_bytes <= USABLE_MEMORY * machine.memory_bytes:
            break
    return way, memory
