"""Mamba-2 layers (Dao & Gu, 2405.21060) over packed documents, as Bamba, Granite 4 and Falcon-H1 have them.

A head's state decays by exp(step A), and takes up step times its input along B; C reads it, and D adds the input again.
The convolution is over the inputs of all heads, B and C together.
"""

from typing import Any, cast

from jaxtyping import Float
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
        projected, exact = self.project(hidden), exact_dtype(hidden.dtype)
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
        mixed_again: Tensor = this.out_proj(self.gate(output, gate))
        return mixed_again

    def project(self, hidden: Hidden) -> Float[Tensor, "local all"]:
        """Gate, channels of the convolution and steps of a token."""
        projected: Tensor = cast(Any, self).in_proj(hidden)
        return projected

    def gate(
        self, output: Float[Tensor, "local inner"], gate: Float[Tensor, "local inner"]
    ) -> Float[Tensor, "local inner"]:
        """The layer's norm with its gate."""
        gated: Tensor = cast(Any, self).norm(output, gate)
        return gated


class ScaledStateSpace(StateSpace):
    """Falcon-H1: the input and each part of what the matrix makes have constant factors, and the norm may be absent."""

    mup_vector: Float[Tensor, "1 1 all"]
    ssm_in_multiplier: float
    mamba_rms_norm: bool

    def project(self, hidden: Hidden) -> Float[Tensor, "local all"]:
        projected = super().project(hidden * self.ssm_in_multiplier)
        # The factors may be float32 beside products of 16 bits: what follows keeps the type of the products.
        return (projected * self.mup_vector[0]).to(projected.dtype)

    def gate(
        self, output: Float[Tensor, "local inner"], gate: Float[Tensor, "local inner"]
    ) -> Float[Tensor, "local inner"]:
        return super().gate(output, gate) if self.mamba_rms_norm else output * functional.silu(gate)
