"""Which code does the elementwise work of a block: torch's operators, Liger's kernels, or programs that torch compiles.

A norm, a rotation or an activation only reads and writes memory. As separate operators they are 30 kernels a layer in
the forward pass, and each of them reads what another one has just written. So on a GPU ``auto`` never leaves them
separate: it takes Liger where that is installed, or else compiled blocks where Triton is and torch is new enough.
"""

from importlib.util import find_spec
from typing import Literal

import torch
from torch.utils._triton import has_triton

from ropewalk.core.error import UserError
from ropewalk.model.compiled import OLDEST_TORCH, compiles_once, require_compiler
from ropewalk.recipe.parallel import Parallel
from ropewalk.shape.model_shape import ModelShape

Fusion = Literal["none", "liger", "compiled"]


def choose_fusion(parallel: Parallel, shape: ModelShape, device: torch.device) -> Fusion:
    """The fusion that ``parallel`` asks for on ``device``, the same in every rank of a machine.

    ``auto`` does not compile a mixture of experts: how many tokens an expert gets differs in every step.

    Raises UserError for Liger where it is not installed or ``device`` is no GPU, and for compiled blocks without a
    compiler.
    """
    if parallel.kernels == "liger":
        _require_liger(device)
        return "liger"
    if parallel.compile == "blocks":
        require_compiler(device)
        return "compiled"
    if device.type != "cuda":
        return "none"
    if parallel.kernels == "auto" and _has_liger():
        return "liger"
    compiles = parallel.compile == "auto" and not shape.mixtures and has_triton() and compiles_once()
    return "compiled" if compiles else "none"


def describe_fusion(fusion: Fusion, device: torch.device) -> str | None:
    """One line for users, or None where there is nothing to tell."""
    if fusion == "liger":
        return "norms, rotation and SwiGLU run in Liger's kernels"
    if fusion == "compiled":
        paid = "; on a CPU the gain is small (docs/memory.md)" if device.type == "cpu" else ""
        return f"the first step compiles its blocks{paid}"
    if device.type == "cuda":
        newer = "" if compiles_once() else f" or torch {'.'.join(map(str, OLDEST_TORCH))}, which compiles blocks"
        return (
            f"norms, rotation and activations are separate kernels, which is slow; pip install 'ropewalk[liger]'{newer}"
        )
    return None


def _has_liger() -> bool:
    return find_spec("liger_kernel") is not None


def _require_liger(device: torch.device) -> None:
    absent = not _has_liger()
    if absent or device.type != "cuda":
        raise UserError(
            "Liger's kernels cannot run here",
            where="parallel.kernels",
            why="the package liger-kernel is not installed" if absent else f"they need a GPU; this is a {device.type}",
            fix="pip install 'ropewalk[liger]', or kernels: auto" if absent else "kernels: auto",
        )
