"""Small bases of every architecture as their config.json has them, and what transformers makes of such a file."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

LAYERS = 4
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def _base(architecture: str, model_type: str, **more: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": model_type, **SMALL, **more}


@pytest.fixture(scope="session")
def bases() -> Mapping[str, dict[str, Any]]:
    """One config.json per architecture, as silent as the class allows."""
    small_ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # the class's own do not fit 96 tokens
    return {
        "llama": _base("LlamaForCausalLM", "llama"),
        "llama, biases": _base("LlamaForCausalLM", "llama", attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5),
        "mistral": _base("MistralForCausalLM", "mistral", sliding_window=None),
        "mistral, window": _base("MistralForCausalLM", "mistral", sliding_window=64, head_dim=16),
        "ministral": _base("MinistralForCausalLM", "ministral", head_dim=12, sliding_window=32),
        "smollm3": _base("SmolLM3ForCausalLM", "smollm3", **small_ids),
        "smollm3, all turn": _base("SmolLM3ForCausalLM", "smollm3", no_rope_layers=[1] * LAYERS, **small_ids),
        "qwen2": _base("Qwen2ForCausalLM", "qwen2"),
        "qwen3": _base("Qwen3ForCausalLM", "qwen3", head_dim=16),
        "olmo2": _base("Olmo2ForCausalLM", "olmo2", **small_ids),
        "olmo3": _base("Olmo3ForCausalLM", "olmo3", sliding_window=32, **small_ids),
        "gemma3": _base("Gemma3ForCausalLM", "gemma3_text", head_dim=16, sliding_window=32, **small_ids),
    }


@pytest.fixture(scope="session")
def build() -> Callable[[Mapping[str, Any]], PreTrainedModel]:
    """The model that transformers builds from a config.json, with random weights."""

    def build_model(config: Mapping[str, Any]) -> PreTrainedModel:
        kind = {key: value for key, value in config.items() if key != "model_type"}
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **kind))
        assert type(model).__name__ == config["architectures"][0]
        return model.eval()

    return build_model


@pytest.fixture(scope="session")
def live_layers() -> Callable[[Any], list[tuple[int | None, np.ndarray, float]]]:
    """Window, frequencies and attention factor that each layer of a built model really has."""

    def read(model: Any) -> list[tuple[int | None, np.ndarray, float]]:
        return [_read_layer(model, layer.self_attn, index) for index, layer in enumerate(model.model.layers)]

    return read


def _read_layer(model: Any, attention: Any, index: int) -> tuple[int | None, np.ndarray, float]:
    config, rotary = model.config, model.model.rotary_emb
    uniform = config.sliding_window if config.model_type == "mistral" else None
    kind = (getattr(config, "layer_types", None) or [])[index:] or [""]
    prefix = f"{kind[0]}_" if hasattr(rotary, f"{kind[0]}_inv_freq") else ""
    frequencies = getattr(rotary, f"{prefix}inv_freq").double().numpy()
    scaling = getattr(rotary, f"{prefix}attention_scaling")
    turns = getattr(attention, "use_rope", 1)
    return getattr(attention, "sliding_window", uniform), frequencies * turns, scaling if turns else 1.0
