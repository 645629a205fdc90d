"""The seconds of one training step of a rank, term by term: the one formula of all forecasts.

Products and attention are FLOPs over rates; norms, rotation, activation and loss are bytes over the device's memory
rate; tiles run an MLP again where nothing else is recomputed, and add gradients once a tile. Messages and copies on
streams of their own cost the part that compute does not hide, and a share of the hidden part, because they take memory
rate and processors from it. An optimizer on the host is as fast as the machine's processors. Five factors are fitted to
published steps (``Factors``; products have one for each of two generations); benchmarks/plan_published.py fits them and
holds each against rows that it did not see.
"""

import math
from dataclasses import dataclass, fields, replace

from ropewalk.plan.block_memory import copied_bytes
from ropewalk.plan.cpu_attention import scale_rate
from ropewalk.plan.devices import Generation
from ropewalk.plan.elementwise import elementwise_bytes
from ropewalk.plan.flops import BACKWARD_LINEAR, TokenFlops, count_passes
from ropewalk.plan.hardware import Machine
from ropewalk.plan.savings import Savings
from ropewalk.shape.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Software:
    """What runs the step. ``fused`` is with Liger's kernels or a compiler; ``overlaps`` is False for copies on the
    stream that computes, as torch's ``save_on_cpu`` and transformers' offload run them."""

    fused: bool = True
    overlaps: bool = True


@dataclass(frozen=True, slots=True)
class Factors:
    """What published steps take over the plain terms. ``UNFITTED`` takes the terms as they are."""

    products: dict[Generation | None, float]
    """Of the seconds of products, by generation; others take that of ``None``."""
    attention: float = 1.0
    elementwise: float = 1.0
    hidden: float = 0.0
    """Share of hidden messages' seconds that is not hidden."""


UNFITTED = Factors({None: 1.0})


@dataclass(frozen=True, slots=True)
class Work:
    """What one rank does in a step. ``imbalance`` is the busiest rank's attention over the mean."""

    tokens: float
    flops: TokenFlops
    ranks: int = 1
    micro_batches: int = 1
    imbalance: float = 1.0
    trained_parameters: int = 0
    """Of the whole model; 0 leaves the optimizer out."""
    context_seconds: float = 0.0
    """Of messages for attention, hidden behind attention (plan/links.py)."""
    state_seconds: float = 0.0
    """Of weights and gradients, hidden behind the layer before."""
    element_bytes: int = 2


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one rank; attention's forward and backward have rates of their own, and are told apart."""

    products: float
    attention_forward: float
    """All forward passes of attention: two where it is recomputed."""
    attention_backward: float
    elementwise: float
    tiles: float
    optimizer: float
    messages: float
    """What compute does not hide of messages between ranks."""
    copies: float
    """What compute does not hide of the copies to and from the host."""
    fixed: float
    """Latency of messages, and kernels that are shorter than their launch."""

    @property
    def total(self) -> float:
        attention = self.attention_forward + self.attention_backward
        compute = self.products + attention + self.elementwise + self.tiles
        return compute + self.optimizer + self.messages + self.copies + self.fixed

    def largest(self) -> str:
        """The name of the largest term, in words."""
        return max(fields(self), key=lambda field: getattr(self, field.name)).name.replace("_", " ")


def estimate_step_time(
    shape: ModelShape,
    work: Work,
    *,
    savings: Savings,
    machine: Machine,
    software: Software | None = None,
    factors: Factors | None = None,
) -> StepTime:
    """The step of a rank that does ``work``; ``factors`` None are the fitted ones."""
    software = software or Software(fused=machine.generation is not None)
    factors = factors or (FITTED if machine.generation is not None or machine.generic else UNFITTED)
    if work.element_bytes == 4:
        machine = in_float32(machine)
    linear, forward, backward = _compute_seconds(shape, work, savings=savings, machine=machine)
    share = work.flops.share_of(savings.recompute_blocks)
    linear_passes, attention_passes = count_passes(savings.recompute, share)
    again = 0.0 if savings.recompute == "none" else share.blocks
    moved = elementwise_bytes(shape, fused=software.fused)
    element_forward, element_backward = (
        work.element_bytes / 2 * work.tokens * shape.layers * each / machine.memory_bytes_per_second for each in moved
    )
    loss = work.tokens * shape.vocabulary * _LOSS_BYTES / machine.memory_bytes_per_second
    by_generation = factors.products
    products = by_generation.get(machine.generation, by_generation[None]) * linear
    forward, backward = factors.attention * forward, factors.attention * backward
    elementwise = factors.elementwise * ((1 + again) * element_forward + element_backward + loss)
    tiles = by_generation.get(machine.generation, by_generation[None]) * _tile_seconds(
        shape, work, savings, machine, again=again
    )
    compute = products + forward + backward + elementwise + tiles
    optimizer, host_copies = _optimizer_seconds(shape, work, savings, machine)
    copied = work.tokens * copied_bytes(shape, 1, savings=savings, element_bytes=work.element_bytes)
    copy_seconds = copied / machine.host_link_bytes_per_second + host_copies / 2
    once = (
        products / (linear_passes + BACKWARD_LINEAR)
        + forward / attention_passes
        + factors.elementwise * element_forward
    )
    attention = forward + backward
    launches = _launch_seconds(shape, work, machine=machine, fused=software.fused)
    busy = max(compute, launches)  # waiting for launches hides messages as computing does
    exposed = max(0.0, work.context_seconds - attention) + max(0.0, work.state_seconds - (busy - attention))
    hidden = work.context_seconds + work.state_seconds - exposed
    return StepTime(
        products=products,
        attention_forward=forward,
        attention_backward=backward,
        elementwise=elementwise,
        tiles=tiles,
        optimizer=optimizer,
        messages=exposed + factors.hidden * hidden,
        copies=exposed_seconds(copy_seconds, forward=once, backward=compute - once, overlaps=software.overlaps),
        fixed=_latency_seconds(shape, work, machine=machine) + busy - compute,
    )


def exposed_seconds(copy_seconds: float, *, forward: float, backward: float, overlaps: bool) -> float:
    """What copies to the host during ``forward`` and back during ``backward`` add; one way takes ``copy_seconds``."""
    if not overlaps:
        return 2 * copy_seconds
    return max(0.0, copy_seconds - forward) + max(0.0, copy_seconds - backward)


_LOSS_BYTES = 20
"""Of a logit: written and read in 16 bits, in float32 for the softmax, and its gradient."""
_HALF_RATE_TOKENS = 600
"""Length of a document at which a flash kernel reaches half of its rate: FlashAttention 2 on an A100 does 0.46 of it at
512 tokens, 0.77 at 2Ki, and 0.96 at 16Ki."""
_NARROW_HEAD, _NARROW_SHARE = 64, {"hopper": 0.65, "blackwell": 0.65}
"""Heads of up to 64 dimensions leave the tensor cores waiting for exponentials: 0.8 of the rate, on Hopper less."""
_OPTIMIZER_BYTES = 7 * 4
"""Of a parameter: AdamW reads a weight, a gradient and two moments, and writes a weight and two moments."""
_LATENCY, _LAUNCH = 20e-6, 6e-6
"""Seconds of a collective message before its first byte, and of one kernel's launch."""
_COLLECTIVES, _KERNELS = 3, {True: 60, False: 150}
"""Of a layer in a step: two gathers and a reduction; kernels with fused elementwise work and without."""


def _compute_seconds(
    shape: ModelShape, work: Work, *, savings: Savings, machine: Machine
) -> tuple[float, float, float]:
    """Seconds of products, attention's forward and attention's backward."""
    never = math.inf
    rate = attention_share(shape, work.flops, machine)
    forward_rate, backward_rate = rate * machine.attention_forward_flops, rate * machine.attention_backward_flops
    again = savings.recompute, savings.recompute_blocks
    linear, forward = work.flops.seconds(*again, matmul=machine.matmul_flops, forward=forward_rate, backward=never)
    _, backward = work.flops.seconds(*again, matmul=never, forward=never, backward=backward_rate)
    attended = work.tokens * work.imbalance
    return work.tokens * linear, attended * forward, attended * backward


def attention_share(shape: ModelShape, flops: TokenFlops, machine: Machine) -> float:
    """Attention's rate as a share of the machine's, for heads and documents of these sizes; 1 without attention."""
    if not shape.attention_layers:
        return 1.0
    width = shape.query_width + shape.output_width  # both are means
    keys = flops.attention / (2.0 * width * shape.attention_layers)
    if machine.generation is None and not machine.generic:  # a CPU
        return scale_rate(2 * keys)
    narrow = _NARROW_SHARE.get(machine.generation or "", 0.8) if shape.head_dim <= _NARROW_HEAD else 1.0
    return narrow * 2 * keys / (2 * keys + _HALF_RATE_TOKENS)


def _tile_seconds(shape: ModelShape, work: Work, savings: Savings, machine: Machine, *, again: float) -> float:
    """An MLP's forward more where nothing else runs again, and weights' gradients added up once a tile.

    ``again`` is the share of blocks that are recomputed.
    """
    if savings.mlp_tile_tokens is None or work.tokens / work.micro_batches <= savings.mlp_tile_tokens:
        return 0.0
    weights = shape.dense_mlps * shape.mlp_parameters
    once_more = (1 - again) * 2 * weights * work.tokens / machine.matmul_flops
    sums = work.tokens / savings.mlp_tile_tokens * weights * 2 * 4 / machine.memory_bytes_per_second
    return once_more + sums


def _optimizer_seconds(shape: ModelShape, work: Work, savings: Savings, machine: Machine) -> tuple[float, float]:
    """Seconds of the optimizer, and of the copies of weights and gradients that an optimizer on the host needs."""
    own = work.trained_parameters / work.ranks
    if not savings.states_on_host:
        return own * _OPTIMIZER_BYTES / machine.memory_bytes_per_second, 0.0
    on_node = min(work.ranks, machine.node_ranks or work.ranks)
    moved = shape.parameters / work.ranks * work.micro_batches * (2 * 4 + 4)  # float32 shards up twice, gradients down
    return own * on_node / machine.host_parameters_per_second, moved / machine.host_link_bytes_per_second


def _launch_seconds(shape: ModelShape, work: Work, *, machine: Machine, fused: bool) -> float:
    """Seconds that starting all kernels takes, of which a CPU has none."""
    if machine.generation is None and not machine.generic:
        return 0.0
    return work.micro_batches * shape.layers * _KERNELS[fused] * _LAUNCH


def _latency_seconds(shape: ModelShape, work: Work, *, machine: Machine) -> float:
    if work.ranks == 1 or (machine.generation is None and not machine.generic):
        return 0.0
    return work.micro_batches * shape.layers * _COLLECTIVES * _LATENCY


def in_float32(machine: Machine) -> Machine:
    """``machine`` with the rates of float32 inputs."""
    share, own = machine.float32_share, machine.float32_attention_share
    attention = share if own is None else own
    return replace(
        machine,
        matmul_flops=share * machine.matmul_flops,
        attention_forward_flops=attention * machine.attention_forward_flops,
        attention_backward_flops=attention * machine.attention_backward_flops,
    )


FITTED = Factors({None: 1.25, "ampere": 1.13, "hopper": 1.38}, 1.07, 1.08, 0.38)
"""The factors fitted to all rows of benchmarks/plan_published.py, which prints them."""
