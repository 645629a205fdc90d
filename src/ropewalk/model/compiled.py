"""Blocks that torch compiles: norms, projections, rotation and MLP become programs, and attention stays between them.

A program is made once per kind of block and length of row, and all blocks of a kind run it. The surprise is what must
not be traced. Attention goes by a plan that is another one for every row, the hooks of model/rope_hooks keep what they
have made, and tiles are a loop: each would be compiled anew for every step, layer or tile, so each ends a program.
A forward in evaluation runs as it stands: panels read rows of any length, and each length would be compiled.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from ropewalk.core.error import UserError

Run = TypeVar("Run", bound=Callable[..., Any])

_PROGRAMS = 64
"""Most programs that one function is compiled to: kinds of layers x lengths x with and without gradients."""


def compile_in_place(modules: Iterable[nn.Module], *, backend: str = "inductor") -> None:
    """Compile what each of ``modules`` does in training, at its first forward; for blocks, and for MLPs in tiles.

    A module's class is replaced by one derived from it, as FSDP2 does too: names of weights stay as they are. It is
    the inside of a block that is compiled, so what runs around it (recomputing, the hooks of sharding) is not traced.
    """
    for module in modules:
        module.__class__ = _derive(type(module), backend)  # type: ignore[arg-type]  # mypy takes it for a module


def stay_outside(function: Run) -> Run:
    """Decorate what is not to be traced, nor anything that it calls: the program ends before it and another begins."""
    outside: Run = torch.compiler.disable(function)
    return outside


def require_compiler(device: torch.device) -> None:
    """Raise UserError where nothing can build what torch writes for ``device``."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        there, needed = has_triton(), "triton"
    else:
        there, needed = _has_cpp_compiler(), "a C++ compiler (g++, or what the variable CXX names)"
    if not there:
        raise UserError(
            f"compiled blocks need {needed}",
            where="parallel.compile",
            why=f"torch writes programs for this {device.type} and found nothing to build them with",
            fix="install it, or leave parallel.compile out",
        )


def _has_cpp_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


class _Compiled(nn.Module):
    """Comes before the class of a module."""

    compiled: Callable[..., Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return super().forward(*args, **kwargs)
        return type(self).compiled(self, *args, **kwargs)


@cache
def _derive(kind: type[nn.Module], backend: str) -> type[nn.Module]:
    """One class for all modules of a kind, since a program holds for the class that it was traced for."""
    # Lengths are not left open: which program runs must not depend on what else a process has read before.
    # torch's settings belong to a thread, and backward may run in another: so the limit is given here (from 2.13 on).
    limited = "recompile_limit" in inspect.signature(torch.compile).parameters
    limit: dict[str, Any] = {"recompile_limit": _PROGRAMS} if limited else {}
    compiled = torch.compile(kind.forward, dynamic=False, backend=backend, **limit)
    return type(kind.__name__, (_Compiled, kind), {"compiled": staticmethod(compiled)})
