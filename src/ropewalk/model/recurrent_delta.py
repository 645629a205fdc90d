"""Gated delta nets of transformers (Yang et al., 2412.06464) over packed documents: Qwen3-Next, Qwen3.5, OLMo hybrid.

Queries, keys and values pass a short convolution together; each head's decay comes from A, a bias and the input. What
differs between classes is how their matrices are arranged.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ropewalk.attention.differentiate_tiles import exact_dtype
from ropewalk.model.recurrent_layer import Hidden, PackedTokens, RecurrentLayer

_EPSILON = 1e-6
"""Of the length of queries and keys, as in all classes with the delta rule."""


class Projected(NamedTuple):
    """What a layer's own matrices make of its input."""

    mixed: Float[Tensor, "local channels"]
    """Queries, keys and values of all heads, before the convolution."""
    gate: Float[Tensor, "local heads value_dim"]
    beta: Float[Tensor, "local heads"]
    step: Float[Tensor, "local heads"]
    """What the decay is made from."""


class GatedDelta(RecurrentLayer):
    """The layer but for its matrices; the attributes are those of the classes of transformers."""

    conv1d: nn.Conv1d
    A_log: nn.Parameter
    dt_bias: nn.Parameter
    head_k_dim: int
    head_v_dim: int
    key_dim: int
    value_dim: int

    def mix(self, hidden: Hidden, tokens: PackedTokens) -> Hidden:
        mixed, gate, beta, step = self.project(hidden)
        exact = exact_dtype(mixed.dtype)
        mixed = functional.silu(tokens.convolve(mixed, self.conv1d))
        # [local, channels] -> twice [local, key_heads * key_dim], [local, heads * value_dim]
        query, key, value = mixed.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
        query, key = (normalise(each.to(exact).unflatten(-1, (-1, self.head_k_dim))) for each in (query, key))
        value = value.unflatten(-1, (-1, self.head_v_dim))
        decay = -self.A_log.to(exact).exp() * functional.softplus(step.to(exact) + self.dt_bias.to(exact))
        output = tokens.scan(query * self.head_k_dim**-0.5, key, value, decay, beta.to(exact), kind="gated_delta")
        return self.finish(output, gate)

    @abstractmethod
    def project(self, hidden: Hidden) -> Projected:
        """The products of the layer's own matrices with its input."""

    def finish(
        self, output: Float[Tensor, "local heads value_dim"], gate: Float[Tensor, "local heads value_dim"]
    ) -> Hidden:
        """The layer's norm with its gate, which takes every head as a row, and its last matrix."""
        norm, matrix = self.norm_and_matrix
        normed = norm(output.flatten(0, 1), gate.flatten(0, 1)).view(len(output), -1)
        finished: Tensor = matrix(normed)
        return finished

    @property
    def norm_and_matrix(self) -> tuple[nn.Module, nn.Module]:
        """The layer's norm and its last matrix."""
        this: Any = self
        return this.norm, this.out_proj


class DeltaByKeyHead(GatedDelta):
    """Qwen3-Next: two matrices, whose rows are ordered by key heads; its class's own method puts them in order."""

    def project(self, hidden: Hidden) -> Projected:
        this: Any = self
        both = this.in_proj_qkvz(hidden)[None], this.in_proj_ba(hidden)[None]
        query, key, value, gate, beta, step = (each[0] for each in this.fix_query_key_value_ordering(*both))
        # twice [local, key_heads, key_dim], [local, heads, value_dim] -> [local, channels]
        mixed = torch.cat([each.flatten(1) for each in (query, key, value)], dim=-1)
        return Projected(mixed, gate, beta.sigmoid(), step)


class DeltaInFour(GatedDelta):
    """Qwen3.5: a matrix for the convolution's input, and one each for gate, beta and decay."""

    def project(self, hidden: Hidden) -> Projected:
        this: Any = self
        gate = this.in_proj_z(hidden).unflatten(-1, (-1, self.head_v_dim))
        return Projected(this.in_proj_qkv(hidden), gate, this.in_proj_b(hidden).sigmoid(), this.in_proj_a(hidden))


class DeltaInSix(GatedDelta):
    """OLMo hybrid: a matrix for each of queries, keys, values, gate, beta and decay. Beta may reach 2, so that a token
    can turn the sign of what its key finds."""

    allow_neg_eigval: bool

    def project(self, hidden: Hidden) -> Projected:
        this: Any = self
        # twice [local, key_heads * key_dim], [local, heads * value_dim] -> [local, channels]
        mixed = torch.cat([this.q_proj(hidden), this.k_proj(hidden), this.v_proj(hidden)], dim=-1)
        gate = this.g_proj(hidden).unflatten(-1, (-1, self.head_v_dim))
        beta = this.b_proj(hidden).sigmoid() * (2 if self.allow_neg_eigval else 1)
        return Projected(mixed, gate, beta, this.a_proj(hidden))

    @property
    def norm_and_matrix(self) -> tuple[nn.Module, nn.Module]:
        this: Any = self
        return this.o_norm, this.o_proj


def normalise(vectors: Float[Tensor, "local heads key_dim"]) -> Float[Tensor, "local heads key_dim"]:
    """Vectors of length one."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + _EPSILON)
