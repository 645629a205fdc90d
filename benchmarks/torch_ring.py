"""The peer: torch's own ring attention, called as torch calls it, with the flash kernel of the device.

``balanced`` gives each rank a head and a tail chunk of the row, otherwise equal ranges. It knows one document: on a
pack it computes every pair of the row, so there its figure is a price and its result is another one.
"""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor.experimental._context_parallel import _attention as torch_ring

_aten = torch.ops.aten


def own_rows(tokens: int, *, ranks: int, rank: int, balanced: bool) -> np.ndarray:
    """Packed indices of a rank's tokens in the order in which the ring wants them."""
    if not balanced:
        return np.arange(tokens // ranks) + rank * (tokens // ranks)
    chunks = np.arange(tokens).reshape(2 * ranks, -1)
    return np.concatenate([chunks[rank], chunks[2 * ranks - 1 - rank]])


def attend_ring(
    query: Tensor, key: Tensor, value: Tensor, *, group: dist.ProcessGroup, balanced: bool, scale: float
) -> Tensor:
    """[rows, heads, tokens, head_dim], differentiable; the GPU's kernel wants as many key heads as query heads."""
    query = query.contiguous()
    if query.is_cuda:
        key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for each in (key, value))
    out: Tensor = _RingAttention.apply(query, key, value, group, balanced, scale)
    return out


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, group: dist.ProcessGroup, balanced: bool, scale: float
    ) -> Tensor:
        torch_ring._cp_options.enable_load_balance = balanced  # torch's switch is a global one
        forward = _forward_cuda if query.is_cuda else _forward_cpu
        out, logsum, *rest = torch_ring._templated_ring_attention(
            group, 2, forward, query, key, value, is_causal=True, scale=scale
        )
        ctx.save_for_backward(query, key, value, out, logsum)
        ctx.settings = group, balanced, scale, rest
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, logsum = ctx.saved_tensors
        group, balanced, scale, rest = ctx.settings
        torch_ring._cp_options.enable_load_balance = balanced
        given = {"query": query, "key": key, "value": value, "out": out, "logsumexp": logsum, "is_causal": True}
        more: dict[str, Any] = {"scale": scale}
        backward = _backward_cpu
        if query.is_cuda:
            backward = _aten._scaled_dot_product_flash_attention_backward.default
            names = ("cum_seq_q", "cum_seq_k", "max_q", "max_k", "philox_seed", "philox_offset")
            more |= dict(zip(names, rest, strict=False)) | {"dropout_p": 0.0}
        grads = torch_ring._templated_ring_attention_backward(
            group, 2, op=backward, grad_out=grad.contiguous(), grad_out_name="grad_out", **given, **more
        )
        return *grads[:3], None, None, None


def _forward_cpu(*tensors: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, ...]:
    result: tuple[Tensor, ...] = _aten._scaled_dot_product_flash_attention_for_cpu(
        *tensors, 0.0, is_causal, scale=scale
    )
    return result


def _backward_cpu(*, grad_out: Tensor, is_causal: bool, scale: float, **tensors: Tensor) -> tuple[Tensor, ...]:
    result: tuple[Tensor, ...] = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out=grad_out, dropout_p=0.0, is_causal=is_causal, scale=scale, **tensors
    )
    return result


def _forward_cuda(*tensors: Tensor, is_causal: bool, scale: float) -> tuple[Any, ...]:
    result: tuple[Any, ...] = _aten._scaled_dot_product_flash_attention(
        *tensors, 0.0, is_causal=is_causal, return_debug_mask=False, scale=scale
    )
    return result
