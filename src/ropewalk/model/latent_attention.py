"""Latent attention that hands latents to our attention, so that context ranks exchange them before they are expanded.

The classes of transformers compute a token's latent and rotary key, then call their method ``expand_kv`` for the keys
and values of all heads. In the derived class this method returns the two as they are. Our attention takes them, and
calls the class's own method for its own tokens and for received ones.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropewalk.attention.exchange import Block
from ropewalk.attention.latents import Latents
from ropewalk.attention.value_width import widen
from ropewalk.model.architectures import attends, attention_of, blocks_of, family_of

_Keys = Float[Tensor, "rows heads tokens head_dim"]
_Values = Float[Tensor, "rows heads tokens value_dim"]


def exchange_latents(model: Any, implementation: str) -> None:
    """Make the layers of ``model`` pass latents to the attention that is registered as ``implementation``.

    Modules' classes are replaced by derived ones, as in FSDP2; names of weights and results do not change. A model
    without latent attention stays as it is.
    """
    family = family_of(model)
    if family is None or family.latent is None:
        return
    for block in blocks_of(model):
        if not attends(model, block):
            continue
        attention: Any = attention_of(model, block)
        if not isinstance(attention, LatentAttention):
            attention.__class__ = _derive(type(attention), implementation)  # type: ignore[arg-type]


@cache
def _derive(kind: type[nn.Module], implementation: str) -> type[nn.Module]:
    """One class for all layers."""
    return type(kind.__name__, (LatentAttention, kind), {"implementation": implementation})


class LatentAttention(nn.Module):
    """Base class that comes before an attention's own class."""

    implementation: str
    config: Any
    kv_b_proj: nn.Module

    def expand_kv(
        self, latent: Float[Tensor, "rows 1 tokens rank"], rotary: Float[Tensor, "rows 1 tokens rotary_dim"]
    ) -> tuple[_Keys, _Values]:
        """The class's own method for other attention; for ours the two latents, which ``open_latents`` takes."""
        if self.config._attn_implementation == self.implementation:
            return latent, rotary
        return self._expand(latent, rotary)

    def open_latents(
        self, latent: Float[Tensor, "rows 1 tokens rank"], rotary: Float[Tensor, "rows 1 tokens rotary_dim"]
    ) -> tuple[_Keys, _Values, Latents]:
        """Keys and values of own tokens, and the latents of the first row to exchange."""
        rank = latent.shape[-1]
        # [1, tokens, rank] and [1, tokens, rotary_dim] -> [tokens, 1, sent_width]
        own = torch.cat([latent[0], rotary[0]], dim=-1).transpose(0, 1)

        def expand(block: Float[Tensor, "received 1 sent_width"]) -> Block:
            received = len(block)
            if not received:  # the class cannot expand none
                # [0, 1, sent_width] -> [1, 1, sent_width]
                block = torch.cat([block, block.new_zeros(1, *block.shape[1:])])
            row = block.transpose(0, 1)[None]  # [received, 1, sent_width] -> [1, 1, received, sent_width]
            key, value = self._expand(row[..., :rank], row[..., rank:])
            # twice [heads, received, head_dim] -> [2 heads, received, head_dim] -> [received, both_heads, head_dim]
            both = torch.cat([key[0], widen(value[0], key.shape[-1])]).transpose(0, 1)
            return both if received else both[:0]

        return *self._expand(latent, rotary), Latents(own, expand, self._list_trained)

    def _expand(
        self, latent: Float[Tensor, "rows 1 tokens rank"], rotary: Float[Tensor, "rows 1 tokens rotary_dim"]
    ) -> tuple[_Keys, _Values]:
        both: tuple[Tensor, Tensor] = super().expand_kv(latent, rotary)  # type: ignore[misc]
        return both

    def _list_trained(self) -> Sequence[Float[Tensor, "..."]]:
        return [weight for weight in self.kv_b_proj.parameters() if weight.requires_grad]
