"""Blocks compiled by torch: norms, projections, rotation and MLP become programs; attention stays between them.

torch builds one program per kind of block and length of sequence, and all blocks of a kind run it. Some parts must not
be traced. Attention follows a plan that differs for every sequence, the hooks of model/rope_hooks cache their results,
and tiles are a loop. Each of them would be compiled again for every step, layer or tile, so each ends a program. A
forward in evaluation is not compiled: evaluation reads sequences of any length, and each length would need a program.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._triton import has_triton

from ropewalk.core.error import UserError

Run = TypeVar("Run", bound=Callable[..., Any])

OLDEST_TORCH = (2, 13)
"""Older ones build a new program for each pack, and their limit of programs cannot be given here."""
_PROGRAMS = 64
"""The most programs of one function: kinds of layers x lengths x with and without gradients."""


def compile_in_place(modules: Iterable[nn.Module], *, backend: str = "inductor") -> None:
    """Compile the training forward of each of ``modules`` at its first call; for blocks, and for MLPs in tiles.

    A module's class is replaced by a derived class, as in FSDP2, so names of weights do not change. Only the inside of
    a block is compiled, so the code around it (recomputing, the hooks of sharding) is not traced.
    """
    for module in modules:
        module.__class__ = _derive(type(module), backend)  # type: ignore[arg-type]  # mypy takes it for a module


def stay_outside(function: Run) -> Run:
    """Decorator for a function that must not be traced: one program ends before the call, another begins after it."""
    outside: Run = torch.compiler.disable(function)
    return outside


def compiles_once() -> bool:
    """Whether this torch builds one program for all packs of a length."""
    return _read_torch() >= OLDEST_TORCH


def _read_torch() -> tuple[int, ...]:
    return tuple(map(int, torch.__version__.split(".")[:2]))


def require_compiler(device: torch.device) -> None:
    """Raise UserError where this torch is too old, or no compiler for its programs on ``device`` is found."""
    if not compiles_once():
        raise UserError(
            f"compiled blocks need torch {'.'.join(map(str, OLDEST_TORCH))}",
            where="parallel.compile",
            why=f"this is torch {torch.__version__}, which builds a new program for each pack",
            fix="install it, or remove parallel.compile",
        )
    if device.type == "cuda":
        there, needed = has_triton(), "triton"
    else:
        there, needed = _has_cpp_compiler(), "a C++ compiler (g++, or what the variable CXX names)"
    if not there:
        raise UserError(
            f"compiled blocks need {needed}",
            where="parallel.compile",
            why=f"torch generates code for this {device.type} and found no compiler",
            fix="install it, or remove parallel.compile",
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
    """Base class that comes before a module's own class."""

    compiled: Callable[..., Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return super().forward(*args, **kwargs)
        return type(self).compiled(self, *args, **kwargs)


@cache
def _derive(kind: type[nn.Module], backend: str) -> type[nn.Module]:
    """One class for all modules of a kind, since a program holds for the class that it was traced for."""
    # Lengths are not left dynamic: the program must not depend on the lengths that a process has read before. torch's
    # settings belong to a thread, and backward may run in another one, so the limit is given here.
    limit: dict[str, Any] = {"recompile_limit": _PROGRAMS}  # torch's own types lack it
    compiled = torch.compile(kind.forward, dynamic=False, backend=backend, **limit)
    return type(kind.__name__, (_Compiled, kind), {"compiled": staticmethod(compiled)})
