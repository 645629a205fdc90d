"""The ways to fit a longer sequence into the same memory: what is recomputed, computed in tiles or kept on the host.

All ways that a recipe allows are listed, the simplest first; plan/fit.py takes the one with the shortest step of those
that fit. Copies save nothing where the device's memory *is* the host's.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from ropewalk.core.quantity import OPEN, format_count
from ropewalk.plan.flops import Recompute
from ropewalk.recipe.parallel import Offload, Parallel
from ropewalk.shape.model_shape import ModelShape

_SMALLEST_TILE_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Savings:
    """One way to save memory: what is recomputed, computed in tiles, or kept on the host."""

    recompute: Recompute = "none"
    mlp_tile_tokens: int | None = None
    """Tokens of one tile; None takes all tokens through an MLP at once."""
    offload: bool = False
    """The inputs of blocks are kept in host memory until the backward."""
    attention_on_host: bool = False
    """With ``offload``, the results of attention too, which ``save_attention`` keeps."""
    states_on_host: bool = False
    """Masters, gradients and moments are kept in host memory, and the optimizer runs there."""
    eight_bit: bool = False
    """The moments of matrices are kept in 8 bits. This changes the result, so ``auto`` never takes it."""
    recompute_blocks: int | None = None
    """The first blocks, of this number, are recomputed; None is all. ``OPEN`` (0) is as few as fit (plan/fit.py)."""

    def describe(self) -> str:
        """The way in the words of the recipe."""
        words = [f"recompute {self.recompute}"]
        if self.recompute_blocks is not None:
            words = [f"recompute {self.recompute} in the first {format_count(self.recompute_blocks, 'block')}"]
        words += [f"MLP in tiles of {self.mlp_tile_tokens}"] if self.mlp_tile_tokens else []
        if self.offload:
            words += ["inputs and attention on the host" if self.attention_on_host else "inputs on the host"]
        words += ["states on the host"] if self.states_on_host else []
        words += ["moments in 8 bits"] if self.eight_bit else []
        return ", ".join(words)

    def count_again(self, layers: int) -> int:
        """The number of blocks that run again, of ``layers``."""
        assert self.recompute_blocks != OPEN, "plan/fit.py decides it"
        if self.recompute == "none":
            return 0
        return layers if self.recompute_blocks is None else min(layers, self.recompute_blocks)


def list_savings(
    parallel: Parallel, shape: ModelShape, *, host_is_apart: bool, changes_rounding: bool = False
) -> list[Savings]:
    """All ways that ``parallel`` allows, the simplest first; only one if the recipe leaves nothing open.

    ``host_is_apart`` is true if the device has its own memory; without it nothing is moved to the host, unless the
    recipe says so. Moments in 8 bits are listed only with ``changes_rounding``, or if the recipe says so.
    """
    tiles: list[int | None] = [None]
    if shape.experts is None:  # a mixture of experts sorts all tokens by expert, so it has no tiles
        widest = max(_SMALLEST_TILE_TOKENS, shape.width)
        tiles += [widest, *([widest // 4] if widest // 4 >= _SMALLEST_TILE_TOKENS else [])]
    recomputes = list(_list_recomputations(parallel, shape))
    offloads: list[Offload] = ["none", "inputs", "attention"] if host_is_apart else ["none"]
    if parallel.offload != "auto":
        offloads = [parallel.offload]
    states = ["device", "host"] if host_is_apart else ["device"]
    if parallel.states != "auto":
        states = [parallel.states]
    elif changes_rounding:
        states = [*states, "8bit"]
    if parallel.mlp_tile_tokens != "auto":
        tiles = [parallel.mlp_tile_tokens]
    ways = [
        Savings(
            recompute,
            tile,
            offload=offload != "none",
            attention_on_host=offload == "attention",
            states_on_host=place == "host",
            eight_bit=place == "8bit",
            recompute_blocks=blocks,
        )
        for place, (recompute, blocks), offload, tile in itertools.product(states, recomputes, offloads, tiles)
    ]
    return [way for way in ways if _is_possible(way)]


def _list_recomputations(parallel: Parallel, shape: ModelShape) -> Iterator[tuple[Recompute, int | None]]:
    """What is recomputed, and in how many blocks: those of the recipe, all, or as few as fit before all.

    Where a recipe names what is recomputed and no number, that is done in all blocks.
    """
    asked = parallel.recompute_blocks
    for recompute in get_args(Recompute) if parallel.recompute == "auto" else [parallel.recompute]:
        if asked != "auto":
            if recompute != "none":
                yield recompute, asked if asked < shape.layers else None
        else:
            if recompute != "none" and parallel.recompute == "auto" and shape.layers > 1:
                yield recompute, OPEN
            yield recompute, None


def drop_idle_tiles(ways: Sequence[Savings], local_tokens: int) -> list[Savings]:
    """``ways`` without those whose tile holds all ``local_tokens`` of a rank, if the same is there without tiles."""
    held = set(ways)
    return [
        way
        for way in ways
        if (way.mlp_tile_tokens or 0) < local_tokens or replace(way, mlp_tile_tokens=None) not in held
    ]


def _is_possible(way: Savings) -> bool:
    """Whether what goes to the host is kept at all."""
    if way.attention_on_host and way.recompute != "save_attention":
        return False
    if way.offload and way.recompute_blocks == 1:
        return False
    return not (way.offload and way.recompute == "none")
