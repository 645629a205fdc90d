"""A Llama written out in float64, one document at a time, a loop over queries' masks: what a position means.

It takes nothing from the code under test but the values: frequencies and factors of a LayerPosition.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

from ropewalk.rope.layers import LayerPosition


def slow_logits(
    weights: Mapping[str, Tensor], positions: Sequence[LayerPosition], tokens: Tensor, *, head_dim: int
) -> Tensor:
    """Logits [tokens, vocabulary] of one document."""
    given = {name: tensor.double() for name, tensor in weights.items()}
    hidden = given["model.embed_tokens.weight"][tokens]
    for index, position in enumerate(positions):
        own = {
            name.removeprefix(f"model.layers.{index}."): tensor
            for name, tensor in given.items()
            if name.startswith(f"model.layers.{index}.")
        }
        hidden = hidden + _attend(own, position, _norm(hidden, own["input_layernorm.weight"]), head_dim)
        inner = _norm(hidden, own["post_attention_layernorm.weight"])
        gate, up = (inner @ own[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        hidden = hidden + (silu(gate) * up) @ own["mlp.down_proj.weight"].T
    return _norm(hidden, given["model.norm.weight"]) @ given["lm_head.weight"].T


def _attend(own: Mapping[str, Tensor], position: LayerPosition, inner: Tensor, head_dim: int) -> Tensor:
    tokens = len(inner)
    query, key, value = (
        (inner @ own[f"self_attn.{name}_proj.weight"].T).view(tokens, -1, head_dim) for name in ("q", "k", "v")
    )
    frequencies = torch.from_numpy(position.inv_freq_at(tokens, head_dim))
    query, key = (_turn(each, frequencies) * position.attention_factor for each in (query, key))
    groups = query.shape[1] // key.shape[1]
    result = torch.zeros_like(query)
    for place in range(tokens):
        first = 0 if position.window_tokens is None else max(0, place - position.window_tokens + 1)
        sharp = 1.0
        if position.log_n_tokens is not None and place >= position.log_n_tokens:
            sharp = math.log(place + 1) / math.log(position.log_n_tokens)
        for head in range(query.shape[1]):
            scores = key[first : place + 1, head // groups] @ query[place, head] * sharp / math.sqrt(head_dim)
            result[place, head] = scores.softmax(0) @ value[first : place + 1, head // groups]
    return result.reshape(tokens, -1) @ own["self_attn.o_proj.weight"].T


def _turn(heads: Tensor, frequencies: Tensor) -> Tensor:
    """Pairs (i, i + half) as complex numbers, turned."""
    first, second = heads.chunk(2, dim=-1)
    angles = torch.arange(len(heads), dtype=torch.float64)[:, None, None] * frequencies
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def _norm(hidden: Tensor, weight: Tensor) -> Tensor:
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6) * weight
