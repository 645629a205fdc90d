"""The ways to fit a longer sequence into the same memory, fastest first; ``auto`` takes the first one that fits.

They are ordered by cost per token: save nothing; recompute all but attention; the same with the MLP in tiles, which is
free where blocks run twice anyway; the same with inputs and attention's results in host memory, whose copies compute
hides; recompute attention too; the same with inputs in host memory; run the optimizer on the host. Copies save nothing
where the device's memory *is* the host's.
"""

from dataclasses import dataclass, replace

from ropewalk.plan.flops import Recompute
from ropewalk.recipe.spec import Parallel
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

    def describe(self) -> str:
        """The way in the words of the recipe."""
        words = [f"recompute {self.recompute}"]
        words += [f"MLP in tiles of {self.mlp_tile_tokens}"] if self.mlp_tile_tokens else []
        if self.offload:
            words += ["inputs and attention on the host" if self.attention_on_host else "inputs on the host"]
        words += ["states on the host"] if self.states_on_host else []
        words += ["moments in 8 bits"] if self.eight_bit else []
        return ", ".join(words)


def list_savings(parallel: Parallel, shape: ModelShape, *, host_is_apart: bool) -> list[Savings]:
    """All ways that ``parallel`` allows, the fastest first; only one if the recipe leaves nothing open.

    ``host_is_apart`` is true if the device has its own memory.
    """
    # A mixture of experts sorts all tokens by expert, so it has no tiles.
    tile = max(_SMALLEST_TILE_TOKENS, shape.width) if shape.experts is None else None
    full = Savings("full", tile)
    saved = Savings("save_attention", tile)
    ways = [Savings(), Savings("save_attention"), saved]
    ways += [replace(saved, offload=True, attention_on_host=True)] if host_is_apart else []
    ways += [full]
    if host_is_apart:
        ways += [replace(full, offload=True), replace(full, offload=True, states_on_host=True)]
    chosen = dict.fromkeys(_insist(way, parallel) for way in ways)
    return [way for way in chosen if _is_possible(way)]


def _is_possible(way: Savings) -> bool:
    """Whether what goes to the host is kept at all."""
    if way.attention_on_host and way.recompute != "save_attention":
        return False
    return not (way.offload and way.recompute == "none")


def _insist(way: Savings, parallel: Parallel) -> Savings:
    """``way`` with every setting that the recipe fixes."""
    if parallel.recompute != "auto":
        way = replace(way, recompute=parallel.recompute)
        way = replace(way, attention_on_host=way.offload and way.recompute == "save_attention")
    if parallel.mlp_tile_tokens != "auto":
        way = replace(way, mlp_tile_tokens=parallel.mlp_tile_tokens)
    if parallel.offload != "auto":
        way = replace(way, offload=parallel.offload != "none", attention_on_host=parallel.offload == "attention")
    if parallel.states != "auto":
        way = replace(way, states_on_host=parallel.states == "host", eight_bit=parallel.states == "8bit")
    return way
