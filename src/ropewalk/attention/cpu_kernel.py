"""The CPU kernel: a stack of tiles of one shape gives output and log-sum-exp; the backward gives the gradients.

It calls ATen's CPU flash attention, which supports float64 and bfloat16, grouped heads and any strides. Four traps
are handled here. Its causal flag is aligned with the first query and first key, so it serves causal tiles only. A
query that sees no key would get a log-sum-exp of 0, so no tile has such a query. An empty tile would end the
process. Its backward needs the *global* output and log-sum-exp; then the gradients of the tiles sum to those of the
whole.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.bfloat16_tiles import attend_products, products_pay
from ropewalk.partition.tiles import TileMask

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_LONG_TOKENS = 1024

Query = Float[Tensor, "tiles queries heads head_dim"]
Key = Float[Tensor, "tiles keys kv_heads head_dim"]
LogSum = Float[Tensor, "tiles queries heads"]


def attend_tiles(query: Query, key: Key, value: Key, *, mask: TileMask, scale: float) -> tuple[Query, LogSum]:
    """Attention within each tile: its output, and the log of the sum of exponentials of its scores."""
    hidden, causal = _window_mask(query, key, mask), _is_causal(mask)
    if hidden is None and _reads_long_bfloat16(query):
        out, logsum = attend_products(*map(_lay_out, (query, key, value)), causal=causal, scale=scale)
        return out.transpose(1, 2), logsum.transpose(1, 2)
    out, logsum = _forward(*map(_lay_out, (query, key, value)), 0.0, causal, attn_mask=hidden, scale=scale)
    return out.transpose(1, 2), logsum.transpose(1, 2)


def attend_tiles_backward(
    grad: Query, query: Query, key: Key, value: Key, *, out: Query, logsum: LogSum, mask: TileMask, scale: float
) -> tuple[Query, Key, Key]:
    """Gradients of query, key and value; ``out`` and ``logsum`` are those over all tiles of a query.

    A query with a log-sum-exp of infinity gives and gets no gradient.
    """
    hidden, causal = _window_mask(query, key, mask), _is_causal(mask)
    tensors = (*map(_lay_out, (grad, query, key, value)), _heads_first(out), _heads_first(logsum))
    grads = _backward(*tensors, 0.0, causal, attn_mask=hidden, scale=scale)
    return tuple(each.transpose(1, 2) for each in grads)


def _lay_out(
    tensor: Float[Tensor, "tiles tokens heads head_dim"],
) -> Float[Tensor, "tiles heads tokens head_dim"]:
    """Heads first, and a head's tokens side by side where a tile is long: it reads them once for every block.

    On a Zen 4 core that saves 2 to 3 % of the kernel's time at 4096 tokens in float32, 4 to 6 % in bfloat16, and costs
    2 to 4 % at 512.
    """
    turned = _heads_first(tensor)
    return turned.contiguous() if tensor.shape[1] >= _LONG_TOKENS else turned


def _heads_first(tensor: Float[Tensor, "tiles tokens heads ..."]) -> Float[Tensor, "tiles heads tokens ..."]:
    return tensor.transpose(1, 2)


def _reads_long_bfloat16(query: Query) -> bool:
    """Whether no gradient can be asked of these tiles, and products of bfloat16 pay (bfloat16_tiles.py)."""
    long = query.dtype == torch.bfloat16 and query.shape[1] >= _LONG_TOKENS
    return long and torch.is_inference_mode_enabled() and products_pay()


def _is_causal(mask: TileMask) -> bool:
    assert mask.causal in (0, None), "the kernel's causal flag is aligned with the first query and the first key"
    return mask.causal is not None


def _window_mask(query: Query, key: Key, mask: TileMask) -> Float[Tensor, "queries keys"] | None:
    """Minus infinity where the window hides a key; None where it hides none."""
    if mask.window is None:
        return None
    hidden = torch.full((query.shape[1], key.shape[1]), -torch.inf, dtype=query.dtype, device=query.device)
    return hidden.tril(mask.window - 1)
