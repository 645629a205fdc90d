"""GGUF files of tiny models: names, rows of queries and keys, and norms as llama.cpp's converter writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel

END = "<|endoftext|>"
VOCABULARY = [
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    "th",
    "the",
    "<mask>",
    END,
]  # Gemma's class adds its own mask
MERGES = ["t h", "th e"]
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
_SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_AFTER = {"gemma2": _SANDWICH, "gemma3": _SANDWICH}


def pair_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbours: row i of a head's first half comes before row i of its second half."""
    rows = weight.reshape(heads, 2, -1, weight.shape[-1])  # [heads, half, pair, width]
    return np.stack([rows[:, 0], rows[:, 1]], axis=2).reshape(weight.shape)


def write_gguf(
    path: Path,
    architecture: str,
    model: PreTrainedModel,
    *,
    keys: Mapping[str, Any] | None = None,
    kinds: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    split: str = "gpt-2",
) -> Path:
    """Write ``model`` to ``path``. ``keys`` are more keys of the architecture, None drops one; ``kinds`` quantises."""
    gguf = pytest.importorskip("gguf")
    writer, config = gguf.GGUFWriter(path, architecture), model.config
    told: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 50_000.0,
    } | dict(keys or {})
    for key, value in told.items():
        if value is not None:
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
            add(f"{architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3 if token[0] == "<" and len(token) > 1 else 1 for token in VOCABULARY])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(len(VOCABULARY) - 1)
    writer.add_bos_token_id(len(VOCABULARY) - 1)
    writer.add_add_bos_token(False)
    stored = {_name(name, architecture): _lay(name, value, architecture, config) for name, value in _own(model)}
    for name, values in (stored | dict(tensors or {})).items():
        kind = (kinds or {}).get(name)
        if kind is None:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _own(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    return [(name, value) for name, value in model.state_dict().items() if name not in tied]


def _name(name: str, architecture: str) -> str:
    stem, _, suffix = name.rpartition(".")
    parts = stem.split(".")
    block = f"blk.{parts[2]}." if parts[:2] == ["model", "layers"] else ""
    inner = ".".join(parts[3:]) if block else stem
    return f"{block}{(_NAMES | _AFTER.get(architecture, {'post_attention_layernorm': 'ffn_norm'}))[inner]}.{suffix}"


def _lay(name: str, value: torch.Tensor, architecture: str, config: Any) -> np.ndarray:
    values = value.detach().float().numpy()
    if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return pair_rows(values, heads)
    return values + 1 if architecture in _AFTER and name.endswith("norm.weight") else values
