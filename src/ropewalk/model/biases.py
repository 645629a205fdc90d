"""Biases of attention scores in a model: each layer with a bias has one more module with its own parameters.

No class of transformers supports these biases. So a derived class adds one module to such layers before any weight is
read. Then loading, sharding, checkpoints and export handle its parameters like all others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ropewalk.attention.bias import BIASES
from ropewalk.core.strict_json import spell_json
from ropewalk.model.architectures import attention_of, blocks_of
from ropewalk.model.weights import Dtype, open_to_readers, read_headers
from ropewalk.rope.layers import LayerPosition
from ropewalk.shape.weight_files import INDEX, SINGLE

NAME = "score_bias"
"""Name of the module in a layer's attention, and so part of the names of its weights."""

_BASE_FILE, _BIAS_FILE = "model-base.safetensors", "model-biases.safetensors"


def with_biases(kind: type[PreTrainedModel], positions: Sequence[LayerPosition]) -> type[PreTrainedModel]:
    """``kind`` with a module for each bias in ``positions``, one entry per layer; ``kind`` itself for none."""
    if not any(position.bias for position in positions):
        return kind

    def build(self: Any, config: Any) -> None:
        kind.__init__(self, config)
        for block, position in zip(blocks_of(self), positions, strict=True):
            if position.bias is not None:
                attention: Any = attention_of(self, block)
                attention.add_module(NAME, BIASES[position.bias](config.num_attention_heads))

    derived: type[PreTrainedModel] = type(kind.__name__, (kind,), {"__init__": build})
    return derived


def add_bias_weights(folder: Path, positions: Sequence[LayerPosition], *, heads: int, dtype: Dtype) -> None:
    """Write the first values of learnt biases into a folder of weights that lacks them.

    They get a file of their own, and the folder gets an index, because readers take a single file for the whole model.
    """
    stored = read_headers(folder)
    new = {name: tensor for name, tensor in _first_values(positions, heads, dtype).items() if name not in stored}
    if not new:
        return
    if (folder / SINGLE).exists():
        (folder / SINGLE).rename(folder / _BASE_FILE)
    save_file(new, folder / _BIAS_FILE, metadata={"format": "pt"})
    open_to_readers(folder)
    places = {name: tensor.file.name if tensor.file.name != SINGLE else _BASE_FILE for name, tensor in stored.items()}
    index = {"metadata": {}, "weight_map": places | dict.fromkeys(new, _BIAS_FILE)}
    (folder / INDEX).unlink(missing_ok=True)  # it may be a link to the base's own
    (folder / INDEX).write_text(spell_json(index, indent=2) + "\n")


def _first_values(positions: Sequence[LayerPosition], heads: int, dtype: Dtype) -> dict[str, Float[Tensor, "..."]]:
    return {
        f"model.layers.{layer}.self_attn.{NAME}.{name}": value.to(getattr(torch, dtype))
        for layer, position in enumerate(positions)
        if position.bias is not None
        for name, value in BIASES[position.bias](heads).state_dict().items()
    }
