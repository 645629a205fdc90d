"""Long bfloat16 tiles on a CPU that multiplies bfloat16 but has no AMX: whole matrix products and one softmax.

There ATen's flash attention multiplies small blocks and takes 3.0 to 3.3 ns a score on a Zen 5 core, as in float32. The
same core multiplies bfloat16 matrices four times as fast, so three whole operations take 1.3 ns at 16Ki tokens. Scores
are rounded to bfloat16 before the softmax, as in transformers' eager attention; sums are in float32. Only reading
without gradients (evaluation) takes this path, so that the backward always meets the scores of its own forward.
"""

from functools import cache

import torch
from jaxtyping import BFloat16, Float, Float32
from torch import Tensor

from ropewalk.plan.precision import read_cpu_flags

_SCORES = 1 << 20
"""Scores at a time, of the heads that share keys: they are written and read again from a core's cache."""
_LEAST_QUERIES = 32
_NEAR_KEYS = 256
_SURE_SHARE = 1e-30
"""A share of bfloat16 that is larger has all its bits."""

Query = BFloat16[Tensor, "tiles heads queries head_dim"]
Key = BFloat16[Tensor, "tiles kv_heads keys head_dim"]


@cache
def products_pay() -> bool:
    """Whether products of bfloat16 matrices are fast here and ATen's attention does not use them."""
    flags = read_cpu_flags()
    return "avx512_bf16" in flags and "amx_bf16" not in flags


def attend_products(
    query: Query, key: Key, value: BFloat16[Tensor, "tiles kv_heads keys value_dim"], *, causal: bool, scale: float
) -> tuple[BFloat16[Tensor, "tiles heads queries value_dim"], Float32[Tensor, "tiles heads queries"]]:
    """Output and log-sum-exp; ``causal`` hides from query i the keys after i."""
    tiles, heads, queries, _ = query.shape
    kv_heads, keys = key.shape[1:3]
    out = query.new_empty(tiles, heads, queries, value.shape[-1])
    logsum = query.new_empty(tiles, heads, queries, dtype=torch.float32)
    group = heads // kv_heads
    at_once = max(_LEAST_QUERIES, _SCORES // (group * keys))
    rooms = [query.new_empty(group * min(at_once, queries) * keys) for _ in range(2)]  # new memory costs a page fault
    for tile in range(tiles):
        for head in range(kv_heads):
            mine = slice(head * group, (head + 1) * group)
            for begin in range(0, queries, at_once):
                rows = slice(begin, min(begin + at_once, queries))
                seen = min(rows.stop, keys) if causal else keys
                out[tile, mine, rows], logsum[tile, mine, rows] = _attend_block(
                    query[tile, mine, rows],
                    key[tile, head, :seen],
                    value[tile, head, :seen],
                    rooms,
                    first=begin if causal else None,
                    scale=scale,
                )
    return out, logsum


def _attend_block(
    query: BFloat16[Tensor, "group rows head_dim"],
    key: BFloat16[Tensor, "seen head_dim"],
    value: BFloat16[Tensor, "seen value_dim"],
    rooms: list[BFloat16[Tensor, "room"]],
    *,
    first: int | None,
    scale: float,
) -> tuple[BFloat16[Tensor, "group rows value_dim"], Float[Tensor, "group rows"]]:
    """Heads of one group in one product; the first of ``rows`` sees the keys up to number ``first``, None: all.

    Scores and shares are written into the two ``rooms``.
    """
    group, rows, _ = query.shape
    flat = query.reshape(group * rows, -1)
    scores, shares = (room[: len(flat) * len(key)].view(len(flat), -1) for room in rooms)
    torch.addmm(flat.new_zeros(1), flat, key.T, beta=0, alpha=scale, out=scores)  # scaled before it is rounded
    if first is not None and first < len(key):
        hidden = torch.full((rows, len(key) - first), -torch.inf, dtype=query.dtype).triu(1)
        scores.view(group, rows, -1)[..., first:] += hidden
    torch.softmax(scores, -1, out=shares)
    return (shares @ value).view(group, rows, -1), _sum_up(scores, shares, max(rows, _NEAR_KEYS)).view(group, rows)


def _sum_up(
    scores: BFloat16[Tensor, "rows seen"], shares: BFloat16[Tensor, "rows seen"], near: int
) -> Float32[Tensor, "rows"]:
    """The log-sum-exp of each row: any score s has the share exp(s - logsum). ``near`` of the keys are asked first.

    Those are the last ones, of which a causal row sees one at least. Where their shares are too small, all are asked.
    """
    for keys in (near, scores.shape[1]):
        most, share = (each[:, -keys:].amax(-1).float() for each in (scores, shares))
        if (share > _SURE_SHARE).all():
            break
    return most - share.log()
