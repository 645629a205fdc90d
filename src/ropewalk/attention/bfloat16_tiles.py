"""Long bfloat16 tiles on a CPU that multiplies bfloat16 but has no AMX: whole matrix products and one softmax.

There ATen's flash attention multiplies small blocks and takes 3.3 ns a score on a Zen 5 core, as in float32. The same
core multiplies bfloat16 matrices five times as fast, so three whole operations take 1.4 ns. Scores are rounded to
bfloat16 before the softmax, as in transformers' eager attention; sums are in float32. Only reading without gradients
(evaluation) takes this path, so that the backward always meets the scores of its own forward.
"""

from functools import cache

import torch
from jaxtyping import BFloat16, Float, Float32
from torch import Tensor

_SCORES = 3 << 20
"""Scores at a time, in one head: they are read and written from the cache of a core's neighbours, not from memory."""
_LEAST_QUERIES = 64

Query = BFloat16[Tensor, "tiles heads queries head_dim"]
Key = BFloat16[Tensor, "tiles kv_heads keys head_dim"]


@cache
def multiplies_bfloat16() -> bool:
    """Whether products of bfloat16 matrices are fast here and ATen's attention does not use them."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 has none: ATen's kernel then
    return bool(capabilities.get("avx512_bf16")) and not capabilities.get("amx_bf16")


def attend_products(
    query: Query, key: Key, value: BFloat16[Tensor, "tiles kv_heads keys value_dim"], *, causal: bool, scale: float
) -> tuple[BFloat16[Tensor, "tiles heads queries value_dim"], Float32[Tensor, "tiles heads queries"]]:
    """Output and log-sum-exp; ``causal`` hides from query i the keys after i."""
    tiles, heads, queries, _ = query.shape
    kv_heads, keys = key.shape[1:3]
    out = query.new_empty(tiles, heads, queries, value.shape[-1])
    logsum = query.new_empty(tiles, heads, queries, dtype=torch.float32)
    at_once = max(_LEAST_QUERIES, _SCORES * kv_heads // (heads * keys))
    for tile in range(tiles):
        for head in range(kv_heads):
            group = slice(head * heads // kv_heads, (head + 1) * heads // kv_heads)
            for begin in range(0, queries, at_once):
                rows = slice(begin, min(begin + at_once, queries))
                seen = min(rows.stop, keys) if causal else keys
                out[tile, group, rows], logsum[tile, group, rows] = _attend_block(
                    query[tile, group, rows],
                    key[tile, head, :seen],
                    value[tile, head, :seen],
                    first=begin if causal else None,
                    scale=scale,
                )
    return out, logsum


def _attend_block(
    query: BFloat16[Tensor, "group rows head_dim"],
    key: BFloat16[Tensor, "seen head_dim"],
    value: BFloat16[Tensor, "seen value_dim"],
    *,
    first: int | None,
    scale: float,
) -> tuple[BFloat16[Tensor, "group rows value_dim"], Float[Tensor, "group rows"]]:
    """Heads of one group in one product; the first of ``rows`` sees the keys up to number ``first``, None: all."""
    group, rows, _ = query.shape
    flat = query.reshape(group * rows, -1)
    scores = torch.addmm(flat.new_empty(1), flat, key.T, beta=0, alpha=scale)  # scaled before it is rounded
    if first is not None:
        hidden = torch.full((rows, len(key) - first), -torch.inf, dtype=query.dtype).triu(1)
        scores.view(group, rows, -1)[..., first:] += hidden
    shares = scores.softmax(-1)
    # the largest score s has the share exp(s - logsum)
    logsum = scores.amax(-1).float() - shares.amax(-1).float().log()
    return (shares @ value).view(group, rows, -1), logsum.view(group, rows)
