"""Small random models of every supported family, saved as anybody would save them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from ropewalk.model.architectures import class_of
from ropewalk.shape.families import SUPPORTED
from tiny_tokenizer import VOCABULARY, write_tokenizer

WINDOW_TOKENS = 6
KINDS = ("sliding_attention", "full_attention")
CONTEXT_TOKENS = 32


def tiny_config(architecture: str, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT_TOKENS,
        "bos_token_id": None,
        "eos_token_id": 96,
        "pad_token_id": None,
        "tie_word_embeddings": False,
        "initializer_range": 0.1,
        "attn_implementation": "sdpa",
    }
    family = SUPPORTED[architecture]
    if family.windows == "all":
        settings["sliding_window"] = None
    if family.windows == "some" and not family.window_switch:
        layers = changes.get("num_hidden_layers", 2)
        settings |= {"sliding_window": WINDOW_TOKENS, "layer_types": (list(KINDS) * layers)[:layers]}
    if family.nope == "switch":
        settings["no_rope_layer_interval"] = 2
    plain = {"rope_type": "default", "rope_theta": 10_000.0}
    settings["rope_parameters"] = {kind: dict(plain) for kind in KINDS} if family.ropes == "by_type" else plain
    return AutoConfig.for_model(family.model_type, **(settings | changes))


def tiny_model(architecture: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return class_of(architecture)(tiny_config(architecture, **changes)).eval()


@pytest.fixture
def make_tiny() -> Callable[..., PreTrainedModel]:
    """``make_tiny(architecture, **config changes)``: a model with random weights; in forked ranks the same ones."""
    return tiny_model


def write_model(folder: Path, architecture: str = "LlamaForCausalLM", shard_bytes: int = 10**9, **changes: Any) -> Path:
    out = folder / f"base-{architecture}"
    tiny_model(architecture, **changes).save_pretrained(out, max_shard_size=shard_bytes)
    write_tokenizer(out)
    return out


@pytest.fixture(scope="session")
def write_tiny() -> Callable[..., Path]:
    """``write_tiny(folder, architecture, shard_bytes=..., **config changes)``: a folder in it, by transformers."""
    return write_model


@pytest.fixture
def save_tiny(tmp_path: Path) -> Callable[..., Path]:
    """``save_tiny(architecture, shard_bytes=..., **config changes)``: the same in the test's own folder."""
    return partial(write_model, tmp_path)
