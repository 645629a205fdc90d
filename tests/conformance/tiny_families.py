"""One tiny random model for each supported architecture; every key that a family reads has a value that matters."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from double_class import double_class
from ropewalk.model.architectures import class_of
from ropewalk.shape.families import SUPPORTED

CONTEXT_TOKENS, WINDOW_TOKENS, VOCABULARY = 32, 6, 97
FULL, WINDOWED = "full_attention", "sliding_attention"

_LAST_LAYERS = {"use_sliding_window": True, "sliding_window": WINDOW_TOKENS, "max_window_layers": 2}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_FIRST = {
    **_EXPERTS,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
}
_MAMBA = {
    **{"mamba_n_heads": 4, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_d_conv": 3, "mamba_expand": 2},
    **{"mamba_d_head": 32, "mamba_chunk_size": 16, "time_step_limit": [0.1, 0.9]},
}
_FALCON = {
    **{**_MAMBA, "mamba_d_ssm": 96, "mamba_d_head": 24, "mamba_rms_norm": False, "mamba_norm_before_gate": False},
    **{"embedding_multiplier": 3.0, "lm_head_multiplier": 0.25, "key_multiplier": 0.6, "mlp_multipliers": [0.9, 0.7]},
    **{"attention_in_multiplier": 1.2, "attention_out_multiplier": 0.8, "ssm_in_multiplier": 1.3},
    **{"ssm_out_multiplier": 0.7, "ssm_multipliers": [0.6, 1.4, 0.8, 1.2, 0.5]},
}
_GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.5,
    "logits_scaling": 8.0,
}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "head_dim": 8,
    "attention_bias": True,
}
_YARN = {
    "rope_parameters": {
        **{"rope_type": "yarn", "rope_theta": 20_000.0, "factor": 4.0, "original_max_position_embeddings": 8},
        **{"mscale": 0.707, "mscale_all_dim": 0.707},
    },
}
_DELTA = {
    "layer_types": ["linear_attention", FULL] * 2,
    "partial_rotary_factor": 0.5,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 3,
}
_AXES = {
    "rope_parameters": {
        **{"rope_type": "default", "rope_theta": 20_000.0, "partial_rotary_factor": 0.5},
        **{"mrope_section": [2, 1, 1], "mrope_interleaved": True},
    },
}
OWN: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"attention_bias": True, "mlp_bias": True},
    "MistralForCausalLM": {"sliding_window": WINDOW_TOKENS},
    "MinistralForCausalLM": {"sliding_window": WINDOW_TOKENS},
    "Ministral3ForCausalLM": {
        "sliding_window": WINDOW_TOKENS,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "SmolLM3ForCausalLM": {
        "no_rope_layer_interval": 2,
        "use_sliding_window": True,
        "sliding_window": WINDOW_TOKENS,
        "layer_types": [WINDOWED, FULL] * 2,
    },
    "Qwen2ForCausalLM": {"tie_word_embeddings": True, **_LAST_LAYERS},
    "Qwen3ForCausalLM": _LAST_LAYERS,
    "ArceeForCausalLM": {"mlp_bias": True},
    "HeliumForCausalLM": {"attention_bias": True, "mlp_bias": True},
    "Starcoder2ForCausalLM": {"sliding_window": WINDOW_TOKENS},
    "OlmoForCausalLM": {"clip_qkv": 2.0},
    "Gemma2ForCausalLM": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 5},
    "Gemma3ForCausalLM": {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 5},
    "Gemma4ForCausalLM": {
        "global_head_dim": 24,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "final_logit_softcapping": 2.0,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "rope_parameters": {
            FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 20_000.0},
            WINDOWED: {"rope_type": "default", "rope_theta": 10_000.0},
        },
    },
    "GraniteForCausalLM": {**_GRANITE, "attention_bias": True, "mlp_bias": True},
    "GraniteMoeHybridForCausalLM": {
        **_GRANITE,
        "attention_bias": True,
        "num_local_experts": 0,
        "shared_intermediate_size": 40,
        "position_embedding_type": "rope",
        "layer_types": ["mamba", "attention"] * 2,
        **_MAMBA,
    },
    "CohereForCausalLM": {"logit_scale": 0.25, "use_qk_norm": True},
    "Cohere2ForCausalLM": {"logit_scale": 0.25},
    "Phi3ForCausalLM": {
        "sliding_window": WINDOW_TOKENS,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
    },
    "SeedOssForCausalLM": {"attention_out_bias": True, "mlp_bias": True},
    "Ernie4_5ForCausalLM": {"use_bias": False},
    "ExaoneForCausalLM": {},
    "ApertusForCausalLM": {"hidden_act": "xielu"},
    "GPTNeoXForCausalLM": {"num_key_value_heads": 4, "rotary_pct": 0.5},
    "StableLmForCausalLM": {"use_qkv_bias": True, "partial_rotary_factor": 0.5},
    "NemotronForCausalLM": {"attention_bias": True, "mlp_bias": True},
    "Qwen2MoeForCausalLM": {
        **_EXPERTS,
        "num_experts": 4,
        "shared_expert_intermediate_size": 40,
        "decoder_sparse_step": 2,
    },
    "Qwen3MoeForCausalLM": {**_EXPERTS, "num_experts": 4, "mlp_only_layers": [1], "norm_topk_prob": True},
    "OlmoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2},
    "FlexOlmoForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2},
    "Glm4MoeForCausalLM": {**_FIRST, "use_qk_norm": True, "attention_bias": True},
    "Dots1ForCausalLM": _FIRST,
    "GraniteMoeForCausalLM": {**_GRANITE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "GraniteMoeSharedForCausalLM": {
        **_GRANITE,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 40,
    },
    "Ernie4_5_MoeForCausalLM": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 24,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
    },
    "HunYuanMoEV1ForCausalLM": {"num_experts": 4, "moe_topk": 2},
    "MixtralForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW_TOKENS},
    "GptOssForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "DeepseekV2ForCausalLM": {**_LATENT, **_FIRST, **_YARN, "q_lora_rank": None},
    "DeepseekV3ForCausalLM": {**_LATENT, **_FIRST},
    "Glm4MoeLiteForCausalLM": {**_LATENT, **_FIRST},
    "MiniCPM3ForCausalLM": {
        **_LATENT,
        **{"mlp_bias": True, "scale_emb": 3.0, "scale_depth": 0.7, "dim_model_base": 16},
    },
    "YoutuForCausalLM": _LATENT,
    "Qwen3NextForCausalLM": {
        **_DELTA,
        **_EXPERTS,
        "num_experts": 4,
        "shared_expert_intermediate_size": 40,
        "mlp_only_layers": [1],
    },
    "Qwen3_5ForCausalLM": {**_DELTA, **_AXES},
    "Qwen3_5MoeForCausalLM": {
        **_DELTA,
        **_AXES,
        **_EXPERTS,
        "intermediate_size": None,
        "num_experts": 4,
        "shared_expert_intermediate_size": 40,
    },
    "OlmoHybridForCausalLM": {key: value for key, value in _DELTA.items() if key != "partial_rotary_factor"},
    "KimiLinearForCausalLM": {
        **{key: value for key, value in _LATENT.items() if key not in ("q_lora_rank", "head_dim")},
        **{"q_lora_rank": None, "num_experts": 4, "num_experts_per_token": 2, "num_shared_experts": 2},
        **{"moe_intermediate_size": 24, "num_expert_group": 1, "topk_group": 1, "routed_scaling_factor": 1.5},
        **{"model_max_length": CONTEXT_TOKENS, "layer_types": ["linear_attention", FULL] * 2},
        **{"linear_head_dim": 8, "linear_num_heads": 6, "linear_conv_kernel_dim": 3, "first_k_dense_replace": 1},
    },
    "Lfm2ForCausalLM": {
        **{"layer_types": ["conv", FULL] * 2, "conv_L_cache": 4, "block_multiple_of": 8},
        **{"tie_embedding": False, "tie_word_embeddings": True},
    },
    "BambaForCausalLM": {**_MAMBA, "attn_layer_indices": [1, 3]},
    "FalconH1ForCausalLM": _FALCON,
    "NemotronHForCausalLM": {
        **{"layers_block_type": ["linear_attention", FULL, "mlp", "moe"], "mamba_num_heads": 4, "mamba_head_dim": 24},
        **{"n_groups": 2, "ssm_state_size": 8, "conv_kernel": 3, "chunk_size": 16, "time_step_min": 0.7},
        **_EXPERTS,
        **{"n_routed_experts": 4, "moe_shared_expert_intermediate_size": 40, "routed_scaling_factor": 1.5},
    },
    "MiniMaxForCausalLM": {
        "layer_types": ["linear_attention", FULL] * 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "block_size": 8,
        **{"linear_attn_alpha_factor": 1.5, "full_attn_beta_factor": 0.7, "mlp_alpha_factor": 1.2},
    },
    "MiniMaxM2ForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 8},
}


FAMILIES = dict(SUPPORTED)
"""The rows as they are; a test that changes one of SUPPORTED builds the same models."""


def make_settings(architecture: str) -> dict[str, Any]:
    """The entries of a tiny config.json, as a base's publisher would write them."""
    family = FAMILIES[architecture]
    biases = [bias for bias in (family.qkv_bias, family.output_bias, family.mlp_bias) if not isinstance(bias, bool)]
    settings: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": family.model_type,
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 56,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT_TOKENS,
        "bos_token_id": None,
        "eos_token_id": 96,
        "pad_token_id": None,
        "tie_word_embeddings": family.tied,
        **{key: True for key, _ in biases},
    }
    if family.windows == "some" and not family.window_switch:
        settings |= {"sliding_window": WINDOW_TOKENS, "layer_types": [WINDOWED, FULL] * 2}
    if family.ropes == "one" and not family.default_rope:
        settings[family.theta_key] = 20_000.0
    return settings | OWN.get(architecture, {})


def make_model(
    architecture: str, *, dtype: torch.dtype = torch.float32, bare: dict[str, Any] | None = None, **changes: Any
) -> PreTrainedModel:
    """The tiny model with random weights, in evaluation mode; the same ones in every process.

    ``bare`` replaces all settings.
    """
    kind = class_of(architecture)
    if FAMILIES[architecture].recurrent is not None and dtype == torch.float64:
        kind = double_class(kind)
    settings = (make_settings(architecture) if bare is None else bare) | changes
    config = kind.config_class(**{key: value for key, value in settings.items() if key != "model_type"})
    for key in FAMILIES[architecture].no_dropout:
        setattr(config, key, 0.0)
    config._experts_implementation = "batched_mm"  # the default has no float64
    torch.manual_seed(0)
    model = kind(config).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            nn.init.normal_(parameter, one, 0.15 if parameter.dim() > 1 else 0.1)
    return model
