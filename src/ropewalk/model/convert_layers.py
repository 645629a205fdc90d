"""Weights of a model whose chosen attention layers become gated delta nets, one tensor at a time.

A converted layer begins with the attention's own matrices, as in "The Mamba in the Llama" (Wang et al., 2408.15237):
queries, keys, values and outputs keep their roles, with keys and values repeated for each head of queries. What is
left is chosen so that it begins near linear attention whose states decay slowly (gates as in Yang et al., 2412.06464):

- The convolution passes each token alone. Its taps hold the norms' scales of queries and keys, so the SiLU behind it
  sees numbers of about 1, and of values 0.25, where it is nearly linear. Vectors are normalised behind it.
- Decays are constants: a head forgets in 1/64 of the new context to all of it, geometrically. A token writes half of
  the difference between its value and the state's value for its key. Both begin to depend on the input when training
  moves their matrices from zero.
- The norm of a head's output takes the place of softmax's denominator (Mercat et al., 2405.06640); output matrices are
  scaled to the size of its values. Rows of the output gate are drawn.

Attention layers stay as they were to the last digit of float32: their class has a gate, which is one half at first, and
doubled output matrices; and norms that store their scale less 1. In bfloat16 that would not be exact, so the folder has
float32.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor
from transformers import AutoConfig

from ropewalk.core.seed import seed_for
from ropewalk.model.architectures import class_of, tied_names
from ropewalk.model.lazy_weights import LazyWeights, read_weights
from ropewalk.model.write_weights import write_weights
from ropewalk.shape.change_layers import CONVERTED, TAPS
from ropewalk.shape.model_shape import ModelShape

Matrix = Float32[Tensor, "rows width"]
Read = Callable[[str], Float32[Tensor, "..."]]
_SIZE_OF_VALUES = 0.25
_NORMS = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm")


def convert_weights(
    base: Path, work: Path, shape: ModelShape, layers: tuple[int, ...], *, context_tokens: int
) -> dict[str, Any]:
    """Write the weights of ``base``, a model of ``shape``, with these ``layers`` as gated delta nets, into ``work``.

    ``work`` has the config.json of the converted model. Returns the facts for the manifest.
    """
    stored = read_weights(base)
    with torch.device("meta"):
        skeleton = class_of(CONVERTED[shape.architecture])(AutoConfig.from_pretrained(work, local_files_only=True))
    tied = tied_names(skeleton)
    shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items() if name not in tied}
    made = LazyWeights(
        shapes,
        partial(_make, read=lambda name: stored[name].float(), shape=shape, context_tokens=context_tokens),
    )
    assert all(f"model.layers.{layer}.linear_attn.A_log" in shapes for layer in layers)
    write_weights(made, work, dtype="float32", where=work)
    told = ", ".join(map(str, layers))
    return {"converted": f"layers {told}: gated delta nets, from the weights of their attention"}


def _make(name: str, *, read: Read, shape: ModelShape, context_tokens: int) -> Float32[Tensor, "..."]:
    block, found_delta, own = name.removesuffix(".weight").partition(".linear_attn.")
    if found_delta:
        return _make_delta(own, name, block, read=read, shape=shape, context_tokens=context_tokens)
    found, module = read(name), block.rpartition(".")[2]
    if module in _NORMS:
        return found - 1
    if module == "q_proj":
        heads = found.unflatten(0, (shape.heads, -1))  # [heads * head_dim, width] -> [heads, head_dim, width]
        # -> [heads, 2 head_dim, width] -> [heads * 2 head_dim, width]
        return torch.cat([heads, torch.zeros_like(heads)], dim=1).flatten(0, 1)
    return 2 * found if module == "o_proj" else found


def _make_delta(
    own: str, name: str, block: str, *, read: Read, shape: ModelShape, context_tokens: int
) -> Float32[Tensor, "..."]:
    heads, width, head_dim = shape.heads, shape.width, shape.head_dim
    if own == "in_proj_qkv":
        # [heads * head_dim, width] of each -> [channels, width]
        return torch.cat(_read_projections(block, read, shape))
    if own == "conv1d":
        taps = torch.zeros(3 * heads * head_dim, 1, TAPS)
        # [heads, head_dim] of each -> [channels]
        taps[:, 0, -1] = torch.cat([each.flatten() for each in _scale_channels(block, read, shape)])
        return taps
    if own == "out_proj":
        values = _find_sizes(_read_projections(block, read, shape)[2], block, read, heads)
        # [width, heads, head_dim] * [heads, 1] -> [width, heads * head_dim]
        scaled: Tensor = read(f"{block}.self_attn.o_proj.weight").unflatten(1, (heads, -1)) * values[:, None]
        return scaled.flatten(1)
    if own == "in_proj_z":
        generator = torch.Generator().manual_seed(seed_for("init", name, 0))
        scale = read(f"{block}.input_layernorm.weight").square().mean().sqrt() * math.sqrt(width)
        return torch.empty(heads * head_dim, width).normal_(generator=generator) / scale
    if own == "dt_bias":
        shares = torch.linspace(-6, 0, heads, dtype=torch.float64) if heads > 1 else torch.zeros(1)
        rates = 1 / (context_tokens * 2.0**shares)
        return torch.log(torch.expm1(rates)).float()  # its softplus is the rate
    constants: dict[str, Tensor] = {
        "A_log": torch.zeros(heads),
        "in_proj_a": torch.zeros(heads, width),
        "in_proj_b": torch.zeros(heads, width),
        "norm": torch.ones(head_dim),
    }
    return constants[own]


def _read_projections(block: str, read: Read, shape: ModelShape) -> list[Matrix]:
    """The matrices of queries, keys and values, the latter two repeated for each head of queries."""
    query, key, value = (read(f"{block}.self_attn.{name}_proj.weight") for name in "qkv")
    repeat = shape.heads // shape.kv_heads
    # [kv_heads * head_dim, width] -> [heads * head_dim, width]
    key, value = (
        each.unflatten(0, (shape.kv_heads, -1)).repeat_interleave(repeat, dim=0).flatten(0, 1) for each in (key, value)
    )
    return [query, key, value]


def _scale_channels(block: str, read: Read, shape: ModelShape) -> list[Float32[Tensor, "heads head_dim"]]:
    """What each channel of queries, keys and values is multiplied by before its SiLU."""
    query, key, value = (_find_sizes(each, block, read, shape.heads) for each in _read_projections(block, read, shape))
    query_scale, key_scale = (read(f"{block}.self_attn.{name}_norm.weight") for name in "qk")
    flat = torch.full_like(query_scale, _SIZE_OF_VALUES)
    # [heads, 1] and [head_dim] -> [heads, head_dim]
    return [scale / size[:, None] for scale, size in ((query_scale, query), (key_scale, key), (flat, value))]


def _find_sizes(matrix: Matrix, block: str, read: Read, heads: int) -> Float32[Tensor, "heads"]:
    """The root mean square of each head's outputs, for inputs whose numbers are independent and of size 1."""
    rows = matrix * read(f"{block}.input_layernorm.weight")
    sizes: Tensor = rows.unflatten(0, (heads, -1)).square().sum(-1).mean(-1).sqrt()
    return sizes.clamp(min=1e-6)
