"""The seconds of one training step of a rank, term by term, with the copies of activations to host memory and back.

Copies on a stream of their own cost time only where compute does not hide them. On the stream that computes, as
torch's ``save_on_cpu`` and transformers' offload run them, they cost all of it. Messages between ranks are left out:
where they are issued ahead, compute hides them. For three published steps of 1,048,576 tokens the sum is within 10 %
(docs/gpu.md).
"""

from dataclasses import dataclass, fields

from ropewalk.plan.elementwise import elementwise_bytes
from ropewalk.plan.flops import token_flops
from ropewalk.plan.hardware import Machine
from ropewalk.plan.memory import copied_bytes
from ropewalk.plan.savings import Savings
from ropewalk.shape.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one rank; attention's forward and backward have rates of their own, and are told apart."""

    products: float
    attention_forward: float
    """All forward passes of attention: two where it is recomputed."""
    attention_backward: float
    elementwise: float
    copies: float
    """What compute does not hide of the copies to and from the host."""

    @property
    def total(self) -> float:
        return float(sum(getattr(self, field.name) for field in fields(self)))


def estimate_step_time(
    shape: ModelShape,
    *,
    context_tokens: int,
    rank_tokens: float,
    savings: Savings,
    machine: Machine,
    fused: bool = True,
    overlaps: bool = True,
) -> StepTime:
    """The step of a rank with ``rank_tokens`` of sequences that are one document of ``context_tokens`` each.

    ``fused`` is with Liger's kernels; ``overlaps`` is False for copies on the stream that computes.
    """
    flops, never = token_flops(shape, context_tokens), float("inf")
    rates = {"forward": machine.attention_forward_flops, "backward": machine.attention_backward_flops}
    linear, attention_forward = flops.seconds(
        savings.recompute, matmul=machine.matmul_flops, forward=rates["forward"], backward=never
    )
    attention_backward = flops.seconds(
        savings.recompute, matmul=machine.matmul_flops, forward=never, backward=rates["backward"]
    )[1]
    forward_bytes, backward_bytes = elementwise_bytes(shape, fused=fused)
    passes = 1 if savings.recompute == "none" else 2
    token_layers = shape.layers / machine.memory_bytes_per_second
    elementwise = token_layers * (passes * forward_bytes + backward_bytes)
    once = flops.linear / machine.matmul_flops + flops.attention / rates["forward"] + token_layers * forward_bytes
    compute = linear + attention_forward + attention_backward + elementwise
    copy_seconds = copied_bytes(shape, 1, savings=savings) / machine.host_link_bytes_per_second
    copies = exposed_seconds(copy_seconds, forward=once, backward=compute - once, overlaps=overlaps)
    terms = linear, attention_forward, attention_backward, elementwise, copies
    return StepTime(*(rank_tokens * each for each in terms))


def exposed_seconds(copy_seconds: float, *, forward: float, backward: float, overlaps: bool) -> float:
    """What copies to the host during ``forward`` and back during ``backward`` add; one way takes ``copy_seconds``."""
    if not overlaps:
        return 2 * copy_seconds
    return max(0.0, copy_seconds - forward) + max(0.0, copy_seconds - backward)
