"""The record of a forecast, and the split of the work that the forecast depends on."""

from dataclasses import dataclass

from ropewalk.core.quantity import format_amount, format_bytes, format_length, format_seconds
from ropewalk.plan.flops import Recompute, TokenFlops
from ropewalk.plan.hardware import Machine
from ropewalk.plan.memory import Memory
from ropewalk.plan.room import describe_room
from ropewalk.plan.savings import Savings
from ropewalk.plan.step_time import Software, StepTime, Work
from ropewalk.plan.traffic import Exchange, Traffic
from ropewalk.recipe.lora import Lora


@dataclass(frozen=True, slots=True)
class Split:
    """How ranks share the work, in which precision, and which part of the model is trained.

    ``imbalance`` is the busiest rank's attention work over the mean. ``needed_share`` is the share of the other ranks'
    keys that a rank needs in a layer without a window. ``recurrent_traffic`` is what a recurrent layer sends. All come
    from the partition of a batch.
    """

    context_ranks: int = 1
    ulysses_degree: int = 1
    layout: str = "auto"
    exchange: Exchange = "needed_kv"
    savings: tuple[Savings, ...] = ()
    """Ways to save memory, the fastest first; the first one that fits is taken. Empty means all ways."""
    micro_batch_size: int = 1
    element_bytes: int = 2
    loss_chunk_tokens: int = 1024
    imbalance: float = 1.0
    needed_share: float = 1.0
    received_tokens: float = 0.0
    """Tokens of other ranks whose keys a rank holds at once, in tokens with all key heads."""
    recurrent_traffic: Traffic | None = None
    lora: Lora | None = None
    replicas: int = 1
    software: Software | None = None
    """What runs the step; None is what ropewalk runs on that machine."""
    why: str = ""
    """The reason for the split over the context ranks, in words."""
    held_tokens: float | None = None
    """The most tokens of other ranks whose keys memory has room for; None where it has room for any."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The forecast cost of a run. Bytes are of one rank. ``fits`` is true if the peak stays below the usable memory."""

    context_tokens: int
    tokens: int
    steps: int
    step_tokens: int
    ranks: int
    context_ranks: int
    flops: TokenFlops
    savings: Savings
    memory: Memory
    fits: bool
    context_bytes: float
    """Bytes that a rank sends per step for attention and recurrent layers."""
    state_bytes: float
    """Bytes that a rank sends per step for sharded weights and gradients."""
    work: Work
    times: StepTime
    """Seconds of a step by term."""
    step_seconds: float
    seconds: float
    tokens_per_second: float
    machine: Machine
    pinned: str = ""
    """What the recipe's own memory savings cost over those of ``auto``; empty if they cost nothing."""
    cut: str = ""
    """How a sequence of one document is cut, and why; empty if it is not cut."""
    held_tokens: float | None = None
    """As in ``Split``."""

    @property
    def dollars(self) -> float | None:
        """Of all ranks' devices for the whole stage; None where their price is not known."""
        price = self.machine.dollars_per_hour
        return None if price is None else self.ranks * self.seconds / 3600 * price

    @property
    def recompute(self) -> Recompute:
        return self.savings.recompute

    def describe(self) -> str:
        """The plan as text for people, one line per figure."""
        return "\n".join(f"{name:<11} {figure}" for name, figure in self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """Name and figure of each line of the text."""
        return [
            ("sequence", f"{format_length(self.context_tokens)} tokens"),
            ("steps", f"{self.steps:,} of {format_amount(self.step_tokens)} tokens each"),
            (
                "arithmetic",
                f"{format_amount(self.flops.model)} FLOP per token, {self.flops.attention_share:.0%} attention",
            ),
            ("speed", f"{format_amount(self.tokens_per_second)} tokens/s on {self.ranks} x {self.machine.name}"),
            ("time", format_seconds(self.seconds)),
            *(
                []
                if self.dollars is None
                else [("cost", f"${format_amount(self.dollars)} at ${self.machine.dollars_per_hour:g} an hour")]
            ),
            ("memory", f"{format_bytes(self.memory.peak_bytes)} per rank, {self.savings.describe()}"),
            *([("host", f"{format_bytes(self.memory.host)} per rank")] if self.memory.host else []),
            ("fits", describe_room(self.memory, self.machine)),
            ("sent", f"{format_bytes(self.context_bytes)} for attention, {format_bytes(self.state_bytes)} for states"),
            *([("layout", self.cut)] if self.cut else []),
            *([("pinned", self.pinned)] if self.pinned else []),
            *([("rates", self.machine.source)] if self.machine.generic else []),
        ]
