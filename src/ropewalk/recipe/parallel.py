"""How ranks share a step, and what is traded for memory. Only precision and ``8bit`` change the rounding."""

import math
from importlib.util import find_spec
from typing import Literal

from pydantic import Field, model_validator

from ropewalk.core.error import UserError
from ropewalk.core.quantity import OPEN, Count, OpenCount, PositiveCount, format_count
from ropewalk.core.spec import Spec

Offload = Literal["none", "inputs", "attention"]


def require_even(ranks: int, *, context: int, replicas: int, offer: str | None = None) -> None:
    """Raise UserError unless ``ranks`` is a multiple of the context ranks ``context`` and of ``replicas``.

    Its fix is ``offer``; None is the nearest number of ranks below.
    """
    for key, name, count in (("context_parallel", "context ranks", context), ("replicas", "replicas", replicas)):
        if ranks % count:
            raise UserError(
                f"{format_count(ranks, 'rank')} cannot be divided into groups of {count} {name}",
                where=f"parallel.{key}",
                why="the number of ranks must be a multiple of it",
                fix=offer or f"parallel.ranks={_round_ranks(ranks, math.lcm(context, replicas))}",
            )


def _round_ranks(ranks: int, group: int) -> int:
    """``ranks`` rounded down to a multiple of ``group``, but at least one group: no data rank is added without work."""
    return max(ranks // group, 1) * group


def require_moments_kernel(kernel: str) -> None:
    """Raise UserError if the package of ``parallel.moments_kernel`` is missing; nothing is imported."""
    if kernel != "torch" and find_spec(kernel) is None:
        raise UserError(
            f"{MOMENTS_KERNEL} needs the package {kernel}",
            where=MOMENTS_KERNEL,
            why=f"the package {kernel} is not installed",
            fix=f"pip install {kernel}, or {MOMENTS_KERNEL}=torch",
        )


def require_blocks(parallel: "Parallel", layers: int) -> None:
    """Raise UserError if more blocks are to be recomputed than the model's ``layers``."""
    if parallel.recompute_blocks != "auto" and parallel.recompute_blocks > layers:
        raise UserError(
            f"{format_count(parallel.recompute_blocks, 'block')} cannot be recomputed",
            where="parallel.recompute_blocks",
            why=f"the model has {layers}",
            fix=f"a number up to {layers}, or auto",
        )


MOMENTS_KERNEL = "parallel.moments_kernel"
LOSS_CHUNK_TOKENS = {False: 1024, True: 4096}
"""Tokens whose logits exist at once, by whether they are on a GPU: there a small product does not fill the device."""


class Parallel(Spec):
    """How the ranks share the work. ``ranks`` counts processes; data degree = ranks / context_parallel."""

    ranks: OpenCount = 1
    """Processes, one a device; ``auto`` is all devices of ``hardware``, or of this machine (docs/plan.md)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where ranks compute; ``auto`` is a GPU for each rank where there are any, and the CPU for a small model on a
    machine with fewer GPUs than ranks (docs/parallel.md)."""
    deterministic: bool = False
    """Whether a GPU repeats its results bit for bit, at the cost of speed (docs/parallel.md); a CPU always does."""
    context_parallel: OpenCount = 1
    """Ranks that share one sequence (context parallelism); ``auto`` is the fastest by the plan (docs/plan.md)."""
    replicas: OpenCount = 1
    """Copies of all weights and states, each sharded over ranks / replicas neighbours; gradients are summed over all.
    ``auto`` is the fastest by the plan."""
    layout: Literal["auto", "contiguous", "zigzag", "balanced", "local"] = "auto"
    """How a sequence's tokens are placed on its ranks; ``auto`` is the cheapest for each batch (docs/partition.md)."""
    exchange: Literal["auto", "needed_kv", "ring", "all_gather"] = "auto"
    """How keys and values travel between the ranks of a sequence; ``auto`` is the cheapest, on a GPU of those for which
    there is memory (docs/attention.md)."""
    ulysses_degree: PositiveCount | Literal["auto"] = "auto"
    """Of the context ranks, how many share heads instead of tokens: 1 is none, ``context_parallel`` is Ulysses alone.
    ``auto`` is the cheapest for each batch, and 1 where ``exchange`` names a way for tokens."""
    recompute: Literal["auto", "none", "save_attention", "full"] = "auto"
    """What of a block runs again in the backward pass; ``auto`` in this and the next four is the fastest that fits."""
    recompute_blocks: Literal["auto"] | PositiveCount = "auto"
    """How many blocks that is done in, the first of the model; ``auto``: as few as fit, and all where ``recompute``
    names what runs again."""
    mlp_tile_tokens: Literal["auto"] | PositiveCount | None = "auto"
    """Tokens that an MLP takes at once; null is all of them."""
    offload: Literal["auto", "none", "inputs", "attention"] = "auto"
    """What waits in host memory for the backward, only for a GPU: the inputs of recomputed blocks; ``attention`` means
    these and attention's results, with ``recompute: save_attention``."""
    states: Literal["auto", "device", "host", "8bit"] = "auto"
    """Where masters, gradients and moments live, and so where the optimizer runs; on the device, moments may be bytes.
    """
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; master weights, reductions, angles and loss are float32 always."""
    kernels: Literal["auto", "torch", "liger"] = "auto"
    """Whose kernels norms, rotation and SwiGLU run in; ``auto`` is Liger's on a GPU where it is installed."""
    compile: Literal["auto", "none", "blocks"] = "auto"
    """Whether torch (2.13) compiles what a block does besides its attention, at the first step of each sequence length;
    ``auto`` does so on a GPU where Liger's kernels do not run and Triton is installed, but not for experts."""
    loss_chunk_tokens: Literal["auto"] | PositiveCount = "auto"
    """Tokens whose logits exist at once; ``auto`` is 4096 on a GPU and 1024 on a CPU."""
    hang_seconds: float | None = Field(default=None, gt=0)
    """A step that lasts longer is a hang, and its rank is named; null: 20 x the slowest step, but 60 to 480."""
    moments_kernel: Literal["torch", "bitsandbytes"] = "torch"
    """Who moves the moments of ``states: 8bit``: torch's AdamW between reading and writing the bytes, or the kernel of
    bitsandbytes (needs that package), after a trial on the device (docs/memory.md)."""
    restarts: Count = 3
    """How often lost ranks are started anew without a new checkpoint in between, where ropewalk started them."""

    @property
    def open_keys(self) -> tuple[str, ...]:
        """The keys of counts that are ``auto``; plan/settle.py decides them before anything counts with them."""
        return tuple(key for key in ("ranks", "context_parallel", "replicas") if getattr(self, key) == OPEN)

    @property
    def asked_loss_tokens(self) -> int | None:
        """``loss_chunk_tokens`` if it is a number; None leaves it to the device (``LOSS_CHUNK_TOKENS``)."""
        return None if self.loss_chunk_tokens == "auto" else self.loss_chunk_tokens

    @model_validator(mode="after")
    def _check_offload(self) -> "Parallel":
        if self.offload in ("inputs", "attention") and self.recompute == "none":
            raise ValueError(
                "offload: it moves the inputs of recomputed blocks to the host, but with recompute: "
                "none there are no such blocks"
            )
        if self.offload in ("inputs", "attention") and self.recompute_blocks == 1:
            raise ValueError(
                "offload: the last recomputed block keeps its input on the device, so with recompute_blocks: 1 nothing "
                "moves to the host"
            )
        if self.offload == "attention" and self.recompute == "full":
            raise ValueError(
                "offload: attention keeps the results of attention, but with recompute: full attention runs again"
            )
        return self

    @model_validator(mode="after")
    def _check_recompute_blocks(self) -> "Parallel":
        if self.recompute == "none" and self.recompute_blocks != "auto":
            raise ValueError(
                f"recompute_blocks: {self.recompute_blocks} counts recomputed blocks, but with recompute: none there "
                "are no such blocks"
            )
        return self

    @model_validator(mode="after")
    def _check_moments_kernel(self) -> "Parallel":
        if self.moments_kernel != "torch" and self.states != "8bit":
            raise ValueError(f"moments_kernel: {self.moments_kernel} moves moments in 8 bits; it needs states: 8bit")
        return self

    @model_validator(mode="after")
    def _check_kernels(self) -> "Parallel":
        if self.kernels == "liger" and self.compile == "blocks":
            raise ValueError("compile: blocks replaces the same operations as kernels: liger; set only one of them")
        return self
