"""Kimi delta attention (KDA, 2510.26692) over packed documents: a delta rule with a decay for each of a key's numbers.

Queries, keys and values pass a short convolution together. The class's own module makes the decays; a gate of low rank
multiplies the normed output.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ropewalk.attention.differentiate_tiles import exact_dtype
from ropewalk.model.recurrent_delta import normalise
from ropewalk.model.recurrent_layer import Hidden, PackedTokens, RecurrentLayer


class KimiDelta(RecurrentLayer):
    """The attributes are those of Kimi Linear's class."""

    conv1d: nn.Conv1d
    head_dim: int

    def mix(self, hidden: Hidden, tokens: PackedTokens) -> Hidden:
        this: Any = self
        exact = exact_dtype(hidden.dtype)
        # thrice [local, heads * head_dim] -> [local, channels]
        mixed = torch.cat([this.q_proj(hidden), this.k_proj(hidden), this.v_proj(hidden)], dim=-1)
        mixed = functional.silu(tokens.convolve(mixed, self.conv1d))
        # [local, channels] -> thrice [local, heads, head_dim]
        query, key, value = (each.unflatten(-1, (-1, self.head_dim)) for each in mixed.chunk(3, dim=-1))
        query, key = normalise(query.to(exact)), normalise(key.to(exact))
        decay = this.forget_gate(hidden[None])[0].to(exact)
        beta = this.b_proj(hidden).sigmoid().to(exact)
        output = tokens.scan(query * self.head_dim**-0.5, key, value, decay, beta, kind="kda")
        gate = this.g_b_proj(this.g_a_proj(hidden)).unflatten(-1, (-1, self.head_dim))
        finished: Tensor = this.o_proj(this.o_norm(output, gate).flatten(1))
        return finished
