"""Entries of a config.json that are null: a class gives some of them a meaning, and fails at the others.

Programs write null for a value that they do not know, and transformers 4 took it for a missing key. transformers 5
types its configs and fails there, so such a file can only mean the default, and is read without the key. Null keeps its
meaning where a class has one: no window, no cap of the logits, queries without a latent, no RoPE.
"""

from collections.abc import Mapping
from typing import Any

from ropewalk.shape.family import Family

_WITHOUT_MEANING = (
    *("rope_parameters", "rope_scaling", "layer_types", "tie_word_embeddings", "max_window_layers"),
    *("no_rope_layer_interval", "moe_layer_interval", "moe_layer_end_index", "decoder_sparse_step", "mamba_d_head"),
    *("first_k_dense_replace", "global_head_dim", "hidden_size_per_layer_input"),
    *("block_auto_adjust_ff_dim", "block_ffn_dim_multiplier"),
)
"""Keys that no class reads as null. For keys that a row names, and for a window, it depends on the row."""


def settle_nulls(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """``config`` without the entries that are null and mean nothing to the class of ``family``.

    Null for the number of key heads is the number of query heads, as in every class that takes it.
    """
    meaningless = {*_WITHOUT_MEANING, *_name_keys(family)}
    settled = {key: value for key, value in config.items() if value is not None or key not in meaningless}
    if config.get("num_key_value_heads", 0) is None and "num_attention_heads" in config:
        settled["num_key_value_heads"] = config["num_attention_heads"]
    return settled


def _name_keys(family: Family) -> set[str]:
    """The keys of a row that its class does not read as null."""
    named = {bias[0] for bias in (family.qkv_bias, family.output_bias, family.mlp_bias) if not isinstance(bias, bool)}
    named |= set(family.experts.count) if family.experts else set()
    if family.tied_key:
        named.add(family.tied_key)
    if family.logit_scale is not None and not family.logit_by_width:
        named.add(family.logit_scale[0])
    if not family.null_head_dim:
        named.add("head_dim")
    if family.unequal:
        named.add("sliding_window")
    return named
