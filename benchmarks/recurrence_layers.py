"""The layers of recurrence.py: a block with a recurrence of transformers, or three and one with softmax attention.

A block is transformers' own mixer, a gated delta net of Qwen3.5 or the Mamba-2 of Granite 4, with norms and an MLP
around it, as in a model. Attention has no positions. All sides have the same weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ropewalk.partition.recurrent_cost import RecurrentStates

Mix = Callable[[Any, Tensor], Tensor]
"""(the mixer, this rank's rows [local, width]) -> [local, width]."""
HEAD_DIM = 128
"""Of attention."""


class Sizes(NamedTuple):
    """Of a layer; ``key_heads`` are groups in Mamba-2. ``stack``: three such layers, and one with attention."""

    kind: str
    width: int
    mlp_width: int
    key_heads: int
    heads: int
    key_dim: int
    value_dim: int
    taps: int = 4
    stack: bool = False

    @property
    def channels(self) -> int:
        return 2 * self.key_heads * self.key_dim + self.heads * self.value_dim

    @property
    def states(self) -> RecurrentStates:
        """The layer as the price list wants it, in a model with three of them for each layer with attention."""
        kind = {"delta": "gated_delta", "mamba": "ssd"}[self.kind]
        return RecurrentStates(kind, self.heads, self.key_dim, self.value_dim, 3, self.channels, self.taps)


class Block(nn.Module):
    """A block as in a model: mixer and MLP, each after a norm."""

    def __init__(self, sizes: Sizes, *, attends: bool) -> None:
        super().__init__()
        self.attends = attends
        self.norms = nn.ModuleList(nn.RMSNorm(sizes.width) for _ in range(2))
        self.mixer = Attention(sizes) if attends else make_mixer(sizes)
        self.gate, self.up = (nn.Linear(sizes.width, sizes.mlp_width, bias=False) for _ in range(2))
        self.down = nn.Linear(sizes.mlp_width, sizes.width, bias=False)

    def forward(self, hidden: Tensor, mix: Mix) -> Tensor:
        hidden = hidden + mix(self.mixer, self.norms[0](hidden))
        rows = self.norms[1](hidden)
        result: Tensor = hidden + self.down(functional.silu(self.gate(rows)) * self.up(rows))
        return result


class Blocks(nn.Module):
    """One block, or a stack of four."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        torch.manual_seed(0)
        kinds = [False, False, False, True] if sizes.stack else [False]
        self.blocks = nn.ModuleList(Block(sizes, attends=attends) for attends in kinds)

    def forward(self, hidden: Tensor, recur: Mix, attend: Mix) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden, attend if block.attends else recur)
        return hidden


class Attention(nn.Module):
    """The matrices of softmax attention: as many key heads as query heads, so that two ranks can share them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (
            nn.Linear(sizes.width, sizes.width, bias=False) for _ in range(4)
        )

    def project(self, rows: Tensor) -> list[Tensor]:
        """Queries, keys and values: [local, heads, head_dim] each."""
        return [each(rows).unflatten(-1, (-1, HEAD_DIM)) for each in (self.query, self.key, self.value)]


def make_mixer(sizes: Sizes) -> nn.Module:
    """transformers' module; for Mamba-2 with chunks of 64 tokens, its fastest here."""
    if sizes.kind == "delta":
        from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
        from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

        config: Any = Qwen3_5TextConfig(
            hidden_size=sizes.width, num_hidden_layers=4, linear_num_value_heads=sizes.heads,
            linear_num_key_heads=sizes.key_heads, linear_key_head_dim=sizes.key_dim,
            linear_value_head_dim=sizes.value_dim, linear_conv_kernel_dim=sizes.taps,
        )  # fmt: skip
        return Qwen3_5GatedDeltaNet(config, 0)
    from transformers.models.granitemoehybrid.configuration_granitemoehybrid import GraniteMoeHybridConfig
    from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridMambaLayer

    assert sizes.heads * sizes.value_dim == 2 * sizes.width
    config = GraniteMoeHybridConfig(
        hidden_size=sizes.width, num_hidden_layers=2, layer_types=["linear_attention", "full_attention"],
        num_attention_heads=2, num_key_value_heads=2, mamba_n_heads=sizes.heads, mamba_d_head=sizes.value_dim,
        mamba_d_state=sizes.key_dim, mamba_n_groups=sizes.key_heads, mamba_d_conv=sizes.taps, mamba_expand=2,
        mamba_chunk_size=64,
    )  # fmt: skip
    return GraniteMoeHybridMambaLayer(config, 0)
