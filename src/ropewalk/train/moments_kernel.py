"""bitsandbytes' kernel for AdamW with moments in 8 bits: one launch for a matrix, in place of decode, step and encode.

The format of the moments stays ours (checkpoint/eight_bit.py). The kernel takes any table of 256 numbers, and its
blocks are 256 consecutive numbers. In a matrix whose rows are multiples of 256 these are our blocks, so a checkpoint
loads on any number of ranks and with either kernel. Other matrices keep our step.

It is used only where a recipe names it, and is tried on the device first: it must move weights and moments as our step
does, to the rounding of a byte.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from ropewalk.checkpoint.eight_bit import BLOCK_ELEMENTS, SCALE, list_numbers
from ropewalk.core.error import UserError
from ropewalk.core.versions import find_version
from ropewalk.recipe.parallel import MOMENTS_KERNEL, require_moments_kernel

MoveMatrix = Callable[
    [Float[Tensor, "rows width"], Float[Tensor, "rows width"], Mapping[str, Any], dict[str, Any]], None
]
"""Of weight, gradient, state and parameter group: one update, in place. The state's ``step`` counts earlier updates."""
MomentsKernel = Literal["torch", "bitsandbytes"]
_SLICE_ELEMENTS = 1 << 30
"""The kernel counts numbers in 32 bits."""
_MOST_APART = 1e-3
"""Of weights after a first update from moments of 0, as a share of the learning rate: nothing is rounded before it."""


def load_moments_kernel(kernel: MomentsKernel, device: torch.device, *, ours: MoveMatrix) -> MoveMatrix | None:
    """Return the kernel's update of a matrix after a trial against ``ours`` on ``device``; None for ``torch``.

    Raises UserError where the package is missing, has no kernel for the device, or computes something else.
    """
    if kernel == "torch":
        return None
    require_moments_kernel(kernel)
    try:
        import_module(kernel)
        fault = find_trial_fault(move_matrix, ours, device)
    except (ImportError, OSError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        fault = f"it cannot run here: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    if fault:
        raise UserError(
            f"{kernel} {find_version(kernel)} cannot move the moments",
            where=MOMENTS_KERNEL,
            why=fault,
            fix=f"{MOMENTS_KERNEL}=torch, which has the same moments and needs no package, or another version of it",
        )
    return move_matrix


def has_its_blocks(weight: Shaped[Tensor, "rows width"]) -> bool:
    """Whether the kernel's blocks in a rank's shard of a matrix are those of the moments."""
    return weight.shape[1] % BLOCK_ELEMENTS == 0 and weight.is_contiguous()


def move_matrix(
    weight: Float[Tensor, "rows width"],
    gradient: Float[Tensor, "rows width"],
    state: Mapping[str, Any],
    group: dict[str, Any],
) -> None:
    """One update by bitsandbytes of a shard for which ``has_its_blocks`` holds; ``state["updates"]`` counts it."""
    update = torch.ops.bitsandbytes.optimizer_update_8bit_blockwise
    tables = [list_numbers(signed, weight.device) for signed in (True, False)]
    first_beta, second_beta = group["betas"]
    rows = max(1, _SLICE_ELEMENTS // max(1, weight.shape[1]))
    for first in range(0, len(weight), rows):
        part = slice(first, first + rows)
        codes = [state[name].flatten(1)[part] for name in ("exp_avg", "exp_avg_sq")]
        scales = [state[name + SCALE][part].view(-1) for name in ("exp_avg", "exp_avg_sq")]
        update(
            "adam", gradient[part].contiguous(), weight[part], *codes, first_beta, second_beta, 0.0, 0.0, group["eps"],
            state["updates"], float(group["lr"]), *tables, *scales, group["weight_decay"], 1.0,
        )  # fmt: skip
        codes[1].clamp_(min=1)  # only a block of zeros has zeros among its second moments (encode_moments)


def find_trial_fault(kernel: MoveMatrix, ours: MoveMatrix, device: torch.device) -> str:
    """Return how two updates by ``kernel`` differ from those by ``ours``; empty where they agree."""
    rate = 1e-2
    group = {"betas": (0.9, 0.95), "eps": 1e-8, "lr": rate, "weight_decay": 0.1}
    random = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(4, 2 * BLOCK_ELEMENTS, generator=random) for _ in range(3))
    sides = [(start.to(device, copy=True), _make_state(start.to(device))) for _ in range(2)]
    for updates, gradient in enumerate(gradients, start=1):
        for (weight, state), move in zip(sides, (kernel, ours), strict=True):
            state["updates"] = updates
            state["step"].fill_(updates - 1)
            move(weight, gradient.to(device), state, group)
        apart = (sides[0][0] - sides[1][0]).abs() / rate
        # The first update is exact on both sides; in the second one, bytes may differ by one.
        worst = float(apart.max() if updates == 1 else apart.mean())
        if not worst <= (_MOST_APART if updates == 1 else 0.05):
            return f"on a small matrix, update {updates} differs by {worst:.2g} of the learning rate"
        for name in ("exp_avg", "exp_avg_sq"):
            gap = (sides[0][1][name].int() - sides[1][1][name].int()).abs()
            if int(gap.max()) > updates:
                return f"on a small matrix, bytes of {name} differ by {int(gap.max())} after update {updates}"
    return ""


def _make_state(weight: Float32[Tensor, "rows width"]) -> dict[str, Any]:
    blocks = weight.shape[1] // BLOCK_ELEMENTS
    state: dict[str, Any] = {"step": torch.zeros((), device=weight.device)}
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.zeros_like(weight, dtype=torch.uint8)
        state[name + SCALE] = weight.new_zeros(len(weight), blocks)
    return state
