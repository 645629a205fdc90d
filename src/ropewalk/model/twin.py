"""A tiny model of any class of transformers, to ask the class what it computes: random weights, four layers.

Everything that is not a size is the default of the class. Keys that a class does not have are ignored by it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

LAYERS, HEADS, KV_HEADS, HEAD_DIM, WIDTH, MLP_WIDTH, VOCABULARY = 4, 4, 2, 16, 64, 56, 97
WINDOW_TOKENS = 6
_MOST_PARAMETERS = 20_000_000
SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": MLP_WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
FEW_EXPERTS: Mapping[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
}
"""Changes that make a mixture tiny too. A row is not read with them: these keys say that a class is a mixture."""


def make_config(kind: type[PreTrainedModel], changes: Mapping[str, Any]) -> Any:
    """A tiny config of ``kind``, without dropout: the sizes, with ``changes``; a change to ``...`` removes the key."""
    config = kind.config_class(**{key: value for key, value in {**SIZES, **changes}.items() if value is not ...})
    for key in find_dropout(config):
        setattr(config, key, 0.0)
    config._experts_implementation = "batched_mm"  # the default has no float64
    return config


def find_dropout(config: Any) -> tuple[str, ...]:
    """The keys of a config for what is drawn at random in training."""
    words = ("dropout", "pdrop", "jitter_noise")
    return tuple(key for key, value in config.to_dict().items() if key.endswith(words) and isinstance(value, float))


def make_empty(kind: type[PreTrainedModel], changes: Mapping[str, Any]) -> PreTrainedModel:
    """The tiny model without memory (torch's meta device): names and shapes."""
    with torch.device("meta"):
        return kind(make_config(kind, changes))


@torch.no_grad()
def make_twin(kind: type[PreTrainedModel], changes: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """The tiny model with random weights in float64, in evaluation mode; the same ones at every call."""
    size = sum(each.numel() for each in make_empty(kind, changes or {}).parameters())
    if size > _MOST_PARAMETERS:  # such as a vision tower, whose sizes have other keys
        raise ValueError(f"with the sizes of a tiny model it still has {size:,} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = kind(make_config(kind, changes or {})).double().eval()
        for name, parameter in model.named_parameters():
            one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            nn.init.normal_(parameter, one, 0.15 if parameter.dim() > 1 else 0.1)
    return model
