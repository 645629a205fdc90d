"""Bytes of the work of a layer that is neither a matrix product nor attention: norms, rotation, activation, sums.

Each operator reads its inputs and writes its output, in 16 bits, or in float32 inside a norm. The counts are those of a
block as transformers writes it (``benchmarks/forecast_step.py`` counts them on tensors without values, and
tests/plan/test_step_time.py compares), and of Liger's kernels, which make one pass each. Attention's own bytes belong
to its rate.
"""

from typing import NamedTuple

from ropewalk.shape.model_shape import ModelShape


class _Bytes(NamedTuple):
    """Bytes of each element: of a norm's input, of a rotated one, inside the MLP, and of the block's residual sums."""

    norm: int
    rotation: int
    activation: int
    sums: int


_PLAIN = _Bytes(norm=36, rotation=20, activation=10, sums=12), _Bytes(norm=96, rotation=32, activation=18, sums=30)
_FUSED = _Bytes(norm=4, rotation=4, activation=6, sums=12), _Bytes(norm=6, rotation=4, activation=10, sums=30)


def elementwise_bytes(shape: ModelShape, *, fused: bool) -> tuple[float, float]:
    """Bytes of one token in one layer, in the forward and in the backward pass; ``fused`` is with Liger's kernels."""
    forward, backward = (_count(shape, each) for each in (_FUSED if fused else _PLAIN))
    return forward, backward


def _count(shape: ModelShape, each: _Bytes) -> float:
    turned = shape.query_width + shape.kv_width
    normed = shape.block_norms * shape.width + (turned if shape.qk_norm != "none" else 0)
    return float(
        each.norm * normed + each.rotation * turned + each.activation * shape.mean_mlp_width + each.sums * shape.width
    )
