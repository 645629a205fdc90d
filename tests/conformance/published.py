"""Published config.json files, and what transformers makes of each: its parameters, and the angles that its layers run.

``published_configs.jsonl`` has one file a line, beside the shapes that ropewalk ships. A line names where the file was
read, and how much of it: ``copy``, or what is known otherwise. Pictures and sound are cut to their type.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ropewalk.shape.shipped import BASES, read_sources

FILE = Path(__file__).with_name("published_configs.jsonl")
_RUN_BY = {
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "kimi_k2": "deepseek_v3",
}
"""Types of text parts that no class for text alone has, with the type whose class computes the same."""
_NOT_TEXT = ("quantization_config", "auto_map", "architectures", "vision_config")


def read_published() -> dict[str, dict[str, Any]]:
    """Every config.json by its name on the hub, fresh at each call: transformers changes what it is given."""
    found = {name: json.loads((BASES / name / "config.json").read_text()) for name in read_sources()}
    rows = [json.loads(line) for line in FILE.read_text().splitlines()]
    return found | {row["name"]: row["config"] for row in rows}


def read_as_transformers(config: dict[str, Any]) -> PretrainedConfig:
    """The config of the text model of a config.json, as its class reads it."""
    text = {key: value for key, value in config.get("text_config", config).items() if key not in _NOT_TEXT}
    if config.get("tie_word_embeddings") is not None:
        text["tie_word_embeddings"] = config["tie_word_embeddings"]
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(text.get(key), dict):
            text[key] = {name: value for name, value in text[key].items() if not name.startswith("mrope")}
            text[key] = {name: "default" if value == "mrope" else value for name, value in text[key].items()}
    kind = text.pop("model_type")
    read: PretrainedConfig = AutoConfig.for_model(_RUN_BY.get(kind, kind), **text)
    return read


def save_as_transformers(config: dict[str, Any]) -> str:
    """The file that transformers writes of a config.json, with all defaults, in its own keys."""
    entries = {key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
    kind = "deepseek_v3" if config["model_type"] == "kimi_k2" else config["model_type"]
    return str(AutoConfig.for_model(kind, **entries).to_json_string(use_diff=False))


def build_text(config: dict[str, Any]) -> PreTrainedModel:
    """The text model of a config.json, without memory for its weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(read_as_transformers(config))
    return model


def count(model: PreTrainedModel) -> int:
    """Trained numbers, a tied head once."""
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class Layer:
    """What a layer of transformers does with positions; a window or frequencies are None where it has none."""

    window: int | None
    frequencies: np.ndarray | None
    factor: float


def read_live(model: PreTrainedModel) -> Iterator[Layer]:
    """What each layer does, read from modules that the class builds, not from config.json."""
    backbone = next(
        module for name, module in model.named_children() if name != "lm_head" and hasattr(module, "layers")
    )
    # its buffers are real, those of the model have no memory
    rotary = None if getattr(backbone, "rotary_emb", None) is None else type(backbone.rotary_emb)(config=model.config)
    config = model.config
    kinds = getattr(config, "layer_types", None) or [""] * config.num_hidden_layers
    for kind, block in zip(kinds, backbone.layers, strict=True):
        attention = next((getattr(block, name) for name in ("self_attn", "attention") if hasattr(block, name)), None)
        recurrent = attention is None or kind == "linear_attention"  # MiniMax has both under one name
        if recurrent or rotary is None:  # or no positions anywhere
            yield Layer(None, None, 1.0)
            continue
        window = getattr(attention, "sliding_window", getattr(config, "sliding_window", None) if not kind else None)
        yield _read_layer(config.model_type, rotary, attention, kind, window)


def _read_layer(model_type: str, rotary: Any, attention: Any, kind: str, window: int | None) -> Layer:
    turns = getattr(attention, "use_rope", 1)
    if model_type == "cohere2":
        turns = window is not None
    if model_type == "exaone4":
        turns = attention.sliding_window is None or attention.is_sliding
        window = attention.sliding_window if attention.is_sliding else None
    prefix = f"{kind}_" if hasattr(rotary, f"{kind}_inv_freq") else ""
    frequencies = getattr(rotary, f"{prefix}inv_freq").double().numpy() if turns else None
    return Layer(window, frequencies, float(getattr(rotary, f"{prefix}attention_scaling")) if turns else 1.0)
