"""One call of a kernel: a stack of tiles of one shape -> out and log-sum-exp, and the gradients of both sides.

On a CPU this is ATen's flash attention, which keeps float64 and bfloat16, knows grouped heads, and takes any strides.
Four traps are closed here: its causal flag is aligned top left, so it serves triangles only; a row that sees no key
would get a log-sum-exp of 0, so no tile has one; an empty tile would end the process; and its backward wants the
*global* output and log-sum-exp, which is what makes the gradients of single tiles sum to the whole.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_LONG_TOKENS = 1024

Query = Float[Tensor, "tiles queries heads head_dim"]
Key = Float[Tensor, "tiles keys kv_heads head_dim"]
LogSum = Float[Tensor, "tiles queries heads"]


@dataclass(frozen=True, slots=True)
class Sight:
    """What the queries of a tile see: ``causal`` for a triangle, ``window`` a diagonal (key >= query + window)."""

    causal: bool
    window: int | None


def attend_tiles(query: Query, key: Key, value: Key, *, sight: Sight, scale: float) -> tuple[Query, LogSum]:
    """Attention within each tile: its output, and the log of the sum of exponentials of its scores."""
    mask = _mask(query, key, sight)
    out, logsum = _forward(*map(_lay_out, (query, key, value)), 0.0, sight.causal, attn_mask=mask, scale=scale)
    return out.transpose(1, 2), logsum.transpose(1, 2)


def attend_tiles_backward(
    grad: Query, query: Query, key: Key, value: Key, *, out: Query, logsum: LogSum, sight: Sight, scale: float
) -> tuple[Query, Key, Key]:
    """Gradients of query, key and value; ``out`` and ``logsum`` are those over all tiles of a query.

    A query with a log-sum-exp of infinity gives and gets no gradient.
    """
    mask = _mask(query, key, sight)
    tensors = (*map(_lay_out, (grad, query, key, value)), _heads_first(out), _heads_first(logsum))
    grads = _backward(*tensors, 0.0, sight.causal, attn_mask=mask, scale=scale)
    return tuple(each.transpose(1, 2) for each in grads)


def _lay_out(tensor: Tensor) -> Tensor:
    """Heads first, and a head's rows side by side where a tile is long: it reads them once for every block.

    On a Zen 4 core that saves 2 to 3 % of the kernel's time at 4096 rows in float32, 4 to 6 % in bfloat16, and costs
    2 to 4 % at 512.
    """
    turned = _heads_first(tensor)
    return turned.contiguous() if tensor.shape[1] >= _LONG_TOKENS else turned


def _heads_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(1, 2)


def _mask(query: Query, key: Key, sight: Sight) -> Tensor | None:
    if sight.window is None:
        return None
    hidden = torch.full((query.shape[1], key.shape[1]), -torch.inf, dtype=query.dtype, device=query.device)
    return hidden.tril(sight.window - 1)
