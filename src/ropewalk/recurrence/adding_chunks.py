"""What a chunk without the delta rule adds to a state: taken = (exp(G_last - G) k)^T v, and kept = exp(G_last).

G are the decays summed up to a token. The backward makes the faded keys again.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropewalk.recurrence.chunk_tiles import tile_chunks
from ropewalk.recurrence.decay_powers import TotalDecay, raise_decay
from ropewalk.recurrence.delta_chunks import HeadKept
from ropewalk.recurrence.read_states import ChunkValues, GroupKeys, by_heads, sum_heads

Taken = Float[Tensor, "chunks heads key_dim value_dim"]


class AddingChunks(torch.autograd.Function):
    """``apply(key, value, total)`` -> taken and kept."""

    @staticmethod
    def forward(ctx: Any, key: GroupKeys, value: ChunkValues, total: TotalDecay) -> tuple[Taken, HeadKept]:
        ctx.save_for_backward(key, value, total)
        taken = value.new_empty(*value.shape[:2], key.shape[-1], value.shape[-1])
        for at in tile_chunks(len(value), value.shape[1], value.device):
            faded = by_heads(key[at], raise_decay(total[at][:, :, -1:] - total[at]))
            torch.bmm(faded.flatten(0, 1).transpose(-1, -2), value[at].flatten(0, 1), out=taken[at].flatten(0, 1))
        return taken, raise_decay(total[:, :, -1:])

    @staticmethod
    def backward(ctx: Any, of_taken: Taken, of_kept: HeadKept) -> tuple[GroupKeys, ChunkValues, TotalDecay]:
        key, value, total = ctx.saved_tensors
        to_key, to_value, to_total = (torch.empty_like(each) for each in (key, value, total))
        for at in tile_chunks(len(value), value.shape[1], value.device):
            fade = raise_decay(total[at][:, :, -1:] - total[at])
            faded = by_heads(key[at], fade)
            torch.bmm(faded.flatten(0, 1), of_taken[at].flatten(0, 1), out=to_value[at].flatten(0, 1))
            of_faded = value[at] @ of_taken[at].transpose(-1, -2)
            fallen = faded.mul_(of_faded).sum(-1, keepdim=True)
            fallen[:, :, -1:] = 0  # the last token does not fade: its rounding would hide strong decays
            torch.neg(fallen, out=to_total[at])
            to_total[at][:, :, -1:] += fallen.sum(2, keepdim=True)
            to_key[at] = sum_heads(of_faded.mul_(fade), key.shape[1])
        to_total[:, :, -1:] += of_kept * raise_decay(total[:, :, -1:])
        return to_key, to_value, to_total
