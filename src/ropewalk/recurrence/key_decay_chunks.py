"""What a chunk of KDA does: a delta rule where each of the key's dimensions has a decay of its own (2510.26692).

Each number of a key has its decay between a token and an earlier one, so chunks are short. torch differentiates it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.recurrence.decay_powers import RaiseDecay
from ropewalk.recurrence.read_states import ChunkValues, GroupKeys, HeadKeys, Squares

KeyDecays = Float[Tensor, "chunks heads chunk key_dim"]


def weigh_by_key(
    query: GroupKeys,
    key: GroupKeys,
    value: ChunkValues,
    total: KeyDecays,
    beta: Float[Tensor, "chunks heads chunk 1"],
) -> tuple[Squares, Float[Tensor, "chunks heads chunk _"], HeadKeys, HeadKeys, Float[Tensor, "chunks heads key_dim 1"]]:
    """Scores of queries, values and erasing keys side by side, exp(G) q, exp(G_last - G) k, and exp(G_last)."""
    tokens, repeat = total.shape[2], total.shape[1] // key.shape[1]
    query, key = (each.repeat_interleave(repeat, dim=1) for each in (query, key))
    last = total[:, :, -1:]
    growth, fade = RaiseDecay.apply(total), RaiseDecay.apply(last - total)
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=total.device).triu(1)  # would overflow
    # [chunks, heads, later, earlier, key_dim]
    between = RaiseDecay.apply((total.unsqueeze(3) - total.unsqueeze(2)).masked_fill(later[..., None], -torch.inf))
    scores, weights = ((left.unsqueeze(3) * between * key.unsqueeze(2)).sum(-1) for left in (query, key))
    # [chunks, heads, chunk, value_dim] and [..., key_dim], solved together; only what lies below the diagonal is read
    sides = torch.cat([beta * value, key * (beta * growth)], dim=-1)
    solved = torch.linalg.solve_triangular(beta * weights, sides, upper=False, unitriangular=True)
    return scores, solved, query * growth, key * fade, RaiseDecay.apply(last).transpose(-1, -2)
