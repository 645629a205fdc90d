"""Liger's functions on a CPU: their signatures, what they write over, and the checks that their kernels need.

Each direction is one operator of a namespace of its own, so a test can count it as one kernel. The arithmetic is
written here from the formulas, in float32, with the roundings that each casting mode documents.
"""

import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

NAMESPACE = "emulated_liger"


@contextmanager
def emulate_liger() -> Iterator[None]:
    """In the block the package ``liger_kernel`` is installed, and its kernels take tensors of a CPU."""
    library = Library(NAMESPACE, "DEF")
    for schema, run in _KERNELS.items():
        library.define(schema)
        library.impl(schema.partition("(")[0], run, "CPU")
    parts = {name: ModuleType(name) for name in ("liger_kernel", "liger_kernel.ops")}
    for name, part in parts.items():
        part.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for function in (LigerRMSNormFunction, LigerSiLUMulFunction, LigerRopeFunction):
        setattr(parts["liger_kernel.ops"], function.__name__, function)
    assert not parts.keys() & sys.modules.keys()
    sys.modules.update(parts)
    try:
        yield
    finally:
        for name in parts:
            del sys.modules[name]
        library._destroy()


def _norm(hidden: Tensor, weight: Tensor, eps: float, offset: float, early: bool) -> tuple[Tensor, Tensor]:
    wide = hidden.float()
    root = (wide.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    normed = (wide * root).to(hidden.dtype) if early else wide * root
    scale = weight + offset if early else weight.float() + offset
    return (normed * scale).to(hidden.dtype), root


def _norm_backward(grad: Tensor, hidden: Tensor, weight: Tensor, root: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    normed, slope = hidden.float() * root, grad.float() * (weight.float() + offset)
    d_hidden = root * (slope - normed * (slope * normed).mean(-1, keepdim=True))
    d_weight = (grad.float() * normed).flatten(0, -2).sum(0)
    return d_hidden.to(hidden.dtype), d_weight.to(weight.dtype)


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate.float()).to(up.dtype) * up


def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> None:
    wide, slope, other = gate.float(), grad.float(), up.float()
    share = wide.sigmoid()
    both = slope * other * (share + wide * share * (1 - share)), slope * wide * share
    gate.copy_(both[0])
    up.copy_(both[1])


def _rope(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, back: bool) -> None:
    """[rows, tokens, heads, head_dim] each, without gaps; only the first half of cosine and sine is read."""
    half = cosine.shape[-1] // 2
    cos, sin = (each[:, :, None, :half].float() for each in (cosine, -sine if back else sine))
    for each in (query, key):
        assert each.is_contiguous() and each.shape[-1] == 2 * half
        first, second = each[..., :half].float(), each[..., half:].float()
        each.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1))


_KERNELS = {
    "norm(Tensor hidden, Tensor weight, float eps, float offset, bool early) -> (Tensor, Tensor)": _norm,
    "norm_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor root, float offset) -> (Tensor, Tensor)": (
        _norm_backward
    ),
    "swiglu(Tensor gate, Tensor up) -> Tensor": _swiglu,
    "swiglu_backward(Tensor grad, Tensor(a!) gate, Tensor(b!) up) -> ()": _swiglu_backward,
    "rope(Tensor(a!) query, Tensor(b!) key, Tensor cosine, Tensor sine, bool back) -> ()": _rope,
}


class LigerRMSNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        eps: float,
        offset: float = 0.0,
        casting_mode: str = "llama",
        in_place: bool = True,
        row_mode: Any = None,
    ) -> Tensor:
        assert casting_mode in ("llama", "gemma") and hidden.shape[-1:] == weight.shape
        hidden = hidden.contiguous()
        out, root = torch.ops.emulated_liger.norm(hidden, weight, eps, offset, casting_mode == "llama")
        ctx.save_for_backward(hidden, weight, root)
        ctx.offset, ctx.in_place = offset, in_place
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, root = ctx.saved_tensors
        slopes = torch.ops.emulated_liger.norm_backward(grad.contiguous(), hidden, weight, root, ctx.offset)
        if ctx.in_place:  # the kernel stores there, whoever else reads it
            grad.copy_(slopes[0])
        return *slopes, None, None, None, None, None


class LigerSiLUMulFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        assert gate.shape == up.shape
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return torch.ops.emulated_liger.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        torch.ops.emulated_liger.swiglu_backward(grad.contiguous(), gate, up)
        return gate, up


class LigerRopeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cosine, sine)
        return _turn(query, key, cosine, sine, back=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *_turn(*grads, *ctx.saved_tensors, back=True), None, None


def _turn(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, *, back: bool) -> tuple[Tensor, Tensor]:
    rows = [each.transpose(1, 2).contiguous() for each in (query, key)]
    torch.ops.emulated_liger.rope(*rows, cosine.contiguous(), sine.contiguous(), back)
    first, second = (each.transpose(1, 2) for each in rows)
    return first, second
