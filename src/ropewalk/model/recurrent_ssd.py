"""Mamba-2 layers (Dao & Gu, 2405.21060) over packed documents, as Bamba and Granite 4 have them.

A head's state decays by exp(step A), and takes up step times its input along B; C reads it, and D adds the input again.
The convolution is over the inputs of all heads, B and C together.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ropewalk.attention.differentiate_tiles import exact_dtype
from ropewalk.model.recurrent_layer import Hidden, PackedTokens, RecurrentLayer


class StateSpace(RecurrentLayer):
    """The attributes are those of the classes of transformers."""

    conv1d: nn.Conv1d
    A_log: nn.Parameter
    D: nn.Parameter
    dt_bias: nn.Parameter
    intermediate_size: int
    conv_dim: int
    num_heads: int
    head_dim: int
    n_groups: int
    ssm_state_size: int
    time_step_limit: tuple[float, float]

    def mix(self, hidden: Hidden, tokens: PackedTokens) -> Hidden:
        this: Any = self
        projected, exact = this.in_proj(hidden), exact_dtype(hidden.dtype)
        # [local, all] -> [local, heads * head_dim], [local, channels], [local, heads]
        gate, mixed, step = projected.split([self.intermediate_size, self.conv_dim, self.num_heads], dim=-1)
        mixed = this.act(tokens.convolve(mixed, self.conv1d))
        states = self.n_groups * self.ssm_state_size
        # [local, channels] -> [local, heads * head_dim], twice [local, groups * key_dim]
        value, key, query = mixed.split([self.intermediate_size, states, states], dim=-1)
        key, query = (each.unflatten(-1, (self.n_groups, -1)) for each in (key, query))
        value = value.unflatten(-1, (self.num_heads, -1)).to(exact)
        step = functional.softplus(step.to(exact) + self.dt_bias.to(exact)).clamp(*self.time_step_limit)
        decay = -self.A_log.to(exact).exp() * step
        read = tokens.scan(query, key, value * step[..., None], decay, kind="ssd")
        output = (read + self.D.to(exact)[:, None] * value).flatten(1).to(hidden.dtype)
        mixed_again: Tensor = this.out_proj(this.norm(output, gate))
        return mixed_again
