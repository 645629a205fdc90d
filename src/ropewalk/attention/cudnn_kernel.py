"""cuDNN's attention for chosen tiles of a call, varlen flash attention for the others.

cuDNN takes one tile a launch, and plans a graph for each new shape (attention/cudnn_shapes says which tiles have one).
A causal tile may be padded at its end: no real query sees a later key, and added queries have no gradient. Tokens are
laid out without gaps, because strides are part of a plan's key. Groups of heads share keys inside the kernel.
Given the global output and log-sum-exp, the backward returns gradients of tiles that sum to those of the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from ropewalk.attention.gpu_kernels import FlashVarlenKernel
from ropewalk.attention.schedule import BackwardInputs, KeyTokens, QueryTokens, Scores
from ropewalk.attention.varlen_schedule import VarlenTiles, count_ends

LogSums = Float[Tensor, "queries heads"]


@dataclass(frozen=True, slots=True)
class DenseTile:
    """A tile for cuDNN: its tokens in a call's queries and keys, whether it is causal, and its ``padding`` tokens."""

    queries: slice
    keys: slice
    causal: bool
    padding: int


@dataclass(frozen=True, slots=True)
class SplitKernel:
    """See varlen_schedule.VarlenKernel. It is for one call: ``dense`` and ``varlen`` are all of that call's tiles.

    ``queries`` and ``keys`` are the token ranges of the varlen tiles.
    """

    dense: tuple[DenseTile, ...]
    varlen: VarlenTiles | None
    queries: tuple[slice, ...]
    keys: tuple[slice, ...]

    def attend(
        self, query: QueryTokens, key: KeyTokens, value: KeyTokens, tiles: VarlenTiles, scores: Scores
    ) -> tuple[QueryTokens, LogSums]:
        """See varlen_schedule.VarlenKernel."""
        parts = [
            (tile.queries, *_attend_dense(query[tile.queries], key[tile.keys], value[tile.keys], tile, scores))
            for tile in self.dense
        ]
        if self.varlen is not None:
            taken = _join(query, self.queries), _join(key, self.keys), _join(value, self.keys)
            found = FlashVarlenKernel().attend(*taken, self.varlen, scores)
            parts += zip(self.queries, *(_split(each, self.queries) for each in found), strict=True)
        parts.sort(key=lambda part: part[0].start)
        _, outs, logsums = zip(*parts, strict=True)
        # a part [tile, heads, head_dim] and [tile, heads] for each -> [queries, heads, head_dim] and [queries, heads]
        return torch.cat(outs), torch.cat(logsums)

    def differentiate(
        self, inputs: BackwardInputs, key: KeyTokens, value: KeyTokens, tiles: VarlenTiles, scores: Scores
    ) -> tuple[QueryTokens, KeyTokens, KeyTokens]:
        """See varlen_schedule.VarlenKernel."""
        fields = inputs.query, inputs.grad, inputs.out, inputs.logsum
        parts = []
        for tile in self.dense:
            mine = BackwardInputs(*(each[tile.queries] for each in fields))
            parts.append((tile.queries, *_differentiate_dense(mine, key[tile.keys], value[tile.keys], tile, scores)))
        if self.varlen is not None:
            mine = BackwardInputs(*(_join(each, self.queries) for each in fields))
            taken = _join(key, self.keys), _join(value, self.keys)
            d_query, *d_both = FlashVarlenKernel().differentiate(mine, *taken, self.varlen, scores)
            split = _split(d_query, self.queries), *(_split(each, self.keys) for each in d_both)
            parts += zip(self.queries, *split, strict=True)
        parts.sort(key=lambda part: part[0].start)  # keys lie in the same order of tiles
        _, *found = zip(*parts, strict=True)
        # a part [tile, heads, head_dim] for each -> [queries, heads, head_dim], and likewise keys
        d_query, d_key, d_value = map(torch.cat, found)
        return d_query, d_key, d_value


def split_tiles(tiles: VarlenTiles, padding: Sequence[int | None], device: torch.device) -> SplitKernel:
    """The kernel for a call's tiles: for each the tokens that are added for cuDNN, None where flash takes it."""
    queries, keys = (list(starmap(slice, pairwise(each.listed))) for each in (tiles.queries, tiles.keys))
    dense = tuple(
        DenseTile(of_queries, of_keys, mask.causal is not None, added)
        for of_queries, of_keys, mask, added in zip(queries, keys, tiles.masks, padding, strict=True)
        if added is not None
    )
    left = [index for index, added in enumerate(padding) if added is None]
    if not left:
        return SplitKernel(dense, None, (), ())
    ends = [
        count_ends(np.array([each.lengths[index] for index in left]), device) for each in (tiles.queries, tiles.keys)
    ]
    varlen = VarlenTiles(ends[0], ends[1], tuple(tiles.masks[index] for index in left))
    return SplitKernel(dense, varlen, *(_join_runs([each[index] for index in left]) for each in (queries, keys)))


def _attend_dense(
    query: QueryTokens, key: KeyTokens, value: KeyTokens, tile: DenseTile, scores: Scores
) -> tuple[QueryTokens, LogSums]:
    taken = (_lay_dense(each, tile.padding) for each in (query, key, value))
    out, logsum, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        *taken, None, True, 0.0, tile.causal, False, scale=scores.scale
    )
    queries = len(query)
    # [1, heads, padded, 1] -> [tokens, heads]
    return _from_dense(out, queries), logsum.reshape(query.shape[1], -1)[:, :queries].T


def _differentiate_dense(
    inputs: BackwardInputs, key: KeyTokens, value: KeyTokens, tile: DenseTile, scores: Scores
) -> tuple[QueryTokens, KeyTokens, KeyTokens]:
    queries, keys = len(inputs.query), len(key)
    seed = torch.zeros((), dtype=torch.int64, device=key.device)  # nothing is dropped
    found = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        *(_lay_dense(each, tile.padding) for each in (inputs.grad, inputs.query, key, value, inputs.out)),
        # [tokens, heads] -> [1, heads, padded, 1]
        pad(inputs.logsum.T, (0, tile.padding))[None, ..., None].contiguous(),
        seed,
        seed,
        *(None, None, None),  # no bias, no varlen lengths
        queries + tile.padding,
        keys + tile.padding,
        0.0,
        tile.causal,
        scale=scores.scale,
    )
    d_query, d_key, d_value = (
        _from_dense(each, count) for each, count in zip(found, (queries, keys, keys), strict=True)
    )
    return d_query, d_key, d_value


def _lay_dense(taken: Float[Tensor, "tokens heads head_dim"], padding: int) -> Float[Tensor, "1 heads padded head_dim"]:
    """The tokens as cuDNN wants them; in memory they stay token by token, without gaps."""
    # [tokens, heads, head_dim] -> [padded, heads, head_dim] -> [1, heads, padded, head_dim]
    laid = pad(taken, (0, 0, 0, 0, 0, padding)) if padding else taken.contiguous()
    return laid.transpose(0, 1)[None]


def _from_dense(dense: Float[Tensor, "1 heads padded head_dim"], tokens: int) -> Float[Tensor, "tokens heads head_dim"]:
    # [1, heads, padded, head_dim] -> [tokens, heads, head_dim]
    return dense[0].transpose(0, 1)[:tokens]


def _join(tensor: Shaped[Tensor, "tokens ..."], runs: tuple[slice, ...]) -> Shaped[Tensor, "taken ..."]:
    # a part [run, ...] for each run -> [taken, ...]
    return tensor[runs[0]] if len(runs) == 1 else torch.cat([tensor[run] for run in runs])


def _split(tensor: Shaped[Tensor, "taken ..."], runs: tuple[slice, ...]) -> Sequence[Shaped[Tensor, "run ..."]]:
    # [taken, ...] -> a part [run, ...] for each run
    parts: Sequence[Tensor] = tensor.split([run.stop - run.start for run in runs])
    return parts


def _join_runs(runs: list[slice]) -> tuple[slice, ...]:
    """The same tokens in as few ranges as possible."""
    joined = runs[:1]
    for run in runs[1:]:
        if run.start == joined[-1].stop:
            joined[-1] = slice(joined[-1].start, run.stop)
        else:
            joined.append(run)
    return tuple(joined)
