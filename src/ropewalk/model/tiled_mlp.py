"""An MLP that processes a long sequence in tiles, so that its wide inner tensors exist for one tile at a time.

An MLP treats every token alone, so tiles change only the peak memory. In one layer at 128Ki tokens and a width of 14336
the six inner tensors of a backward pass take 22 GB. Forward keeps the input only; backward runs each tile through the
MLP again and differentiates it.

Where blocks are recomputed anyway, this costs nothing. The input is saved *before* the MLP runs, so torch stops the
block's second run there. So the MLP still runs twice, not three times (except in Gemma and OLMo, whose blocks save a
tensor after their MLP).
"""

from functools import cache
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropewalk.model.architectures import blocks_of, has_mlp, mlp_of
from ropewalk.model.compiled import stay_outside


def tile_mlps(model: Any, tile_tokens: int) -> None:
    """Make every block's MLP in ``model`` process ``tile_tokens`` tokens at a time.

    The module's class is replaced by a derived class, as in FSDP2. Names of weights and the results of the class do not
    change.
    """
    for block in blocks_of(model):
        if not has_mlp(model, block):
            continue
        mlp: Any = mlp_of(model, block)
        mlp.__class__ = _derive(type(mlp), tile_tokens)  # type: ignore[arg-type]  # mypy takes it for a module


@cache
def _derive(kind: type[nn.Module], tile_tokens: int) -> type[nn.Module]:
    """One class for all layers; otherwise a compiled block would be compiled once for each."""
    return type(kind.__name__, (_Tiled, kind), {"tile_tokens": tile_tokens})


class _Tiled(nn.Module):
    """Base class that comes before an MLP's own class."""

    tile_tokens: int

    @stay_outside  # the loop must not be unrolled
    def forward(self, hidden: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows tokens width"]:
        if hidden.shape[:-1].numel() <= self.tile_tokens:
            whole: Tensor = super().forward(hidden)
            return whole
        kept = _Keep.apply(hidden)
        if kept.grad_fn is None:  # no gradients are needed
            result: Tensor = _run_tiles(super().forward, hidden, self.tile_tokens)
        else:
            learnt = [weight for weight in self.parameters() if weight.requires_grad]
            result = _TileByTile.apply(kept, kept.grad_fn, self, super().forward, *learnt)
        return result


class _Keep(torch.autograd.Function):
    """Saves its input before the MLP runs; the backward of ``_TileByTile`` reads it from this node."""

    @staticmethod
    def forward(ctx: Any, hidden: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows tokens width"]:
        ctx.save_for_backward(hidden)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Float[Tensor, "rows tokens width"]
    ) -> Float[Tensor, "rows tokens width"]:
        return grad


class _TileByTile(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "rows tokens width"],
        keeper: Any,
        mlp: _Tiled,
        run: Any,
        *learnt: Float[Tensor, "..."],
    ) -> Float[Tensor, "rows tokens width"]:
        ctx.keeper, ctx.mlp, ctx.run = keeper, mlp, run
        return _run_tiles(run, hidden, mlp.tile_tokens)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Float[Tensor, "rows tokens width"]
    ) -> tuple[Float[Tensor, "..."] | None, ...]:
        (hidden,) = ctx.keeper.saved_tensors
        mlp = cast(_Tiled, ctx.mlp)
        # Sharded weights are whole again at this point, in the same tensors as in forward.
        learnt = [weight for weight in mlp.parameters() if weight.requires_grad]
        # Sums over many tiles are in float32, as one product over all tokens would be.
        sums = [torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32)) for weight in learnt]
        d_hidden = torch.empty_like(hidden)
        # thrice [rows, tokens, width] -> tiles x [tile_tokens, width]; the last ones are views of d_hidden
        parts = (each.flatten(0, -2).split(mlp.tile_tokens) for each in (hidden, grad, d_hidden))
        for tile, d_out, place in zip(*parts, strict=True):
            with torch.enable_grad():
                leaf = tile.detach().requires_grad_()
                d_tile, *slopes = torch.autograd.grad(ctx.run(leaf), [leaf, *learnt], d_out)
            place.copy_(d_tile)
            for total, slope in zip(sums, slopes, strict=True):
                total += slope
        cast_sums = (total.to(weight.dtype) for total, weight in zip(sums, learnt, strict=True))
        return d_hidden, None, None, None, *cast_sums


def _run_tiles(
    run: Any, hidden: Float[Tensor, "rows tokens width"], tile_tokens: int
) -> Float[Tensor, "rows tokens width"]:
    out = torch.empty_like(hidden)
    # twice [rows, tokens, width] -> tiles x [tile_tokens, width]; places are views of out
    tiles, places = (each.flatten(0, -2).split(tile_tokens) for each in (hidden, out))
    for tile, place in zip(tiles, places, strict=True):
        place.copy_(run(tile))
    return out
