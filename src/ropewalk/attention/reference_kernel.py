"""Attention on tiles written out in plain torch: softmax in any floating dtype, on any device.

It is the slow reference for the fast kernels, and it serves what they cannot do: float64 on a GPU, soft caps on a
CPU. Queries are taken in blocks, so that at most 16M scores exist at once.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ropewalk.attention.schedule import BackwardInputs, KeyTokens, QueryTokens, Scores
from ropewalk.attention.varlen_schedule import VarlenTiles
from ropewalk.partition.tiles import TileMask

_MOST_PAIRS = 1 << 24


class ReferenceKernel:
    """See varlen_schedule.VarlenKernel."""

    def attend(
        self, query: QueryTokens, key: KeyTokens, value: KeyTokens, tiles: VarlenTiles, scores: Scores
    ) -> tuple[QueryTokens, Float[Tensor, "queries heads"]]:
        """See varlen_schedule.VarlenKernel."""
        outs, logsums = [], []
        for queries, keys, seen in _blocks(tiles, heads=query.shape[1], device=query.device):
            grouped, wide = _group(query[queries], key), _exact(value[keys])
            bent, _ = _score(grouped, key[keys], seen, scores)
            logsum = bent.logsumexp(-1)
            out = torch.einsum("hgqk,khd->qhgd", (bent - logsum[..., None]).exp(), wide)
            outs.append(out.flatten(1, 2).to(query.dtype))
            logsums.append(logsum.flatten(0, 1).T)
        # [queries, heads, head_dim] and [queries, heads], block after block
        return torch.cat(outs), torch.cat(logsums)

    def differentiate(
        self, inputs: BackwardInputs, key: KeyTokens, value: KeyTokens, tiles: VarlenTiles, scores: Scores
    ) -> tuple[QueryTokens, KeyTokens, KeyTokens]:
        """See varlen_schedule.VarlenKernel. With P the shares, dS = P (dP - sums of dO x O per query)."""
        d_query = []
        d_key, d_value = (torch.zeros_like(_exact(each)) for each in (key, value))
        for queries, keys, seen in _blocks(tiles, heads=inputs.query.shape[1], device=key.device):
            query, grad, out = (_group(each[queries], key) for each in (inputs.query, inputs.grad, inputs.out))
            # [queries, heads] -> [queries, kv_heads, group] -> [kv_heads, group, queries]
            logsum = inputs.logsum[queries].unflatten(1, (key.shape[1], -1)).permute(1, 2, 0)
            bent, slope = _score(query, key[keys], seen, scores)
            shares = (bent - logsum[..., None]).exp()
            d_value[keys] += torch.einsum("hgqk,qhgd->khd", shares, grad)
            d_shares = torch.einsum("qhgd,khd->hgqk", grad, _exact(value[keys]))
            d_scores = shares * (d_shares - (grad * out).sum(-1).permute(1, 2, 0)[..., None]) * slope * scores.scale
            d_query.append(torch.einsum("hgqk,khd->qhgd", d_scores, _exact(key[keys])).flatten(1, 2))
            d_key[keys] += torch.einsum("hgqk,qhgd->khd", d_scores, query)
        # [queries, heads, head_dim], block after block
        return torch.cat(d_query).to(key.dtype), d_key.to(key.dtype), d_value.to(key.dtype)


def _blocks(
    tiles: VarlenTiles, *, heads: int, device: torch.device
) -> Iterator[tuple[slice, slice, Bool[Tensor, "queries keys"] | None]]:
    """Ranges of queries and of keys, and which pairs of them are seen; None for all."""
    ranges = zip(pairwise(tiles.queries.listed), pairwise(tiles.keys.listed), tiles.masks, strict=True)
    for (first, last), (key, key_stop), masks in ranges:
        block = max(1, _MOST_PAIRS // (heads * (key_stop - key)))
        for start in range(first, last, block):
            stop = min(last, start + block)
            ahead = torch.arange(key_stop - key, device=device)
            ahead = ahead - torch.arange(start - first, stop - first, device=device)[:, None]
            yield slice(start, stop), slice(key, key_stop), _see(ahead, masks)


def _see(ahead: Int[Tensor, "queries keys"], masks: TileMask) -> Bool[Tensor, "queries keys"] | None:
    """Of pairs, by how far the key stands ahead of the query in the tile."""
    seen = [] if masks.causal is None else [ahead <= masks.causal]
    if masks.window is not None:
        seen.append(ahead >= masks.window)
    # [bounds, queries, keys] -> [queries, keys]
    return torch.stack(seen).all(0) if seen else None


def _score(
    query: Float[Tensor, "queries kv_heads group head_dim"],
    key: KeyTokens,
    seen: Bool[Tensor, "queries keys"] | None,
    scores: Scores,
) -> tuple[Float[Tensor, "kv_heads group queries keys"], Float[Tensor, "kv_heads group queries keys"] | float]:
    """The scores, and the slope of the soft cap at each."""
    raw = torch.einsum("qhgd,khd->hgqk", query, _exact(key)) * scores.scale
    slope: Tensor | float = 1.0
    if scores.soft_cap is not None:
        bent = torch.tanh(raw / scores.soft_cap)
        raw, slope = scores.soft_cap * bent, 1 - bent.square()
    return raw if seen is None else raw.masked_fill(~seen, -torch.inf), slope


def _group(query: QueryTokens, key: KeyTokens) -> Float[Tensor, "queries kv_heads group head_dim"]:
    """Query heads by the key head that they share, in float32 or better."""
    grouped: Tensor = _exact(query).unflatten(1, (key.shape[1], -1))
    return grouped


def _exact(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
