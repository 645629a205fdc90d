"""The supported hybrids, one line of data each; what a field means stands in family.py.

In most of their layers a recurrence runs in place of attention, or in all of them beside it. How the matrices of such a
layer are arranged stands in shape/recurrent_sizes.py for the sizes, and in model/recurrent_layers.py for the modules.
"""

from collections.abc import Mapping
from dataclasses import replace

from ropewalk.shape.family import ExpertKeys, Family, LatentKeys, Parts, RecurrentKeys

_BIAS = ("attention_bias", False)
_DELTA = Parts(recurrent="linear_attn")

_QWEN35 = Family(
    "qwen3_5_text",
    qkv_bias=_BIAS,
    output_bias=_BIAS,
    qk_norm="head",
    needs_kv_heads=True,
    head_dim=256,
    partial=True,
    rotary_share=0.25,
    query_gate=True,
    fixed={"attn_output_gate": True, "hidden_act": "silu"},
    kept_rope_keys=("mrope_section", "mrope_interleaved"),  # the places of text are equal on all three axes
    recurrent=RecurrentKeys("gated_delta", "qwen3_5", every_key="full_attention_interval"),
    parts=_DELTA,
)

_W123 = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}

HYBRIDS: Mapping[str, Family] = {
    "Qwen3NextForCausalLM": Family(
        "qwen3_next",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm="head",
        needs_kv_heads=True,
        head_dim=256,
        partial=True,
        rotary_share=0.25,
        query_gate=True,
        fixed={"use_sliding_window": False, "hidden_act": "silu"},
        experts=ExpertKeys(
            dense="step", shared_width="shared_expert_intermediate_size", shared_gate=True, may_have_none=True
        ),
        recurrent=RecurrentKeys("gated_delta", "qwen3_next", every_key="full_attention_interval"),
        parts=_DELTA,
    ),
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5MoeForCausalLM": replace(
        _QWEN35,
        model_type="qwen3_5_moe_text",
        mlp_width_key="moe_intermediate_size",  # no layer has another MLP
        experts=ExpertKeys(shared_width="shared_expert_intermediate_size", shared_gate=True),
    ),
    "OlmoHybridForCausalLM": Family(
        "olmo_hybrid",
        pad_id=100_277,
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm="all_heads",
        nope="null_theta",
        fixed={"hidden_act": "silu"},
        recurrent=RecurrentKeys("gated_delta", "olmo_hybrid", ends_attending=True),
        parts=_DELTA,
    ),
    "KimiLinearForCausalLM": Family(
        "kimi_linear",
        pad_id=163_839,
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        needs_kv_heads=True,
        nope="always",
        own_names={
            **{"model_max_length": "max_position_embeddings", "num_experts_per_token": "num_experts_per_tok"},
            **{"num_shared_experts": "n_shared_experts", "num_expert_group": "n_group"},
        },
        fixed={
            **{"hidden_act": "silu", "mla_use_nope": True, "moe_router_activation_func": "sigmoid"},
            **{"moe_layer_freq": 1, "tie_word_embeddings": False},
        },
        experts=ExpertKeys(
            ("num_experts", "num_local_experts"),
            dense="types",
            shared="n_shared_experts",
            balance_bias="buffer",
            scores="sigmoid",
        ),
        latent=LatentKeys(),
        recurrent=RecurrentKeys("kda", "kda"),
        parts=Parts(rotary="", recurrent="self_attn", recurrent_mark="conv1d"),
    ),
    "Lfm2ForCausalLM": Family(
        "lfm2",
        qk_norm="head",
        needs_kv_heads=True,
        tied=True,
        tied_key="tie_embedding",
        theta=1_000_000.0,
        adjusts_mlp=True,
        fixed={"conv_bias": False},
        projections={"o_proj": "out_proj", **_W123},
        recurrent=RecurrentKeys("convolution", "lfm2", word="conv", every=1, attention_key="full_attn_idxs"),
        parts=Parts(recurrent="conv", mlp="feed_forward", norm="embedding_norm"),
    ),
    "BambaForCausalLM": Family(
        "bamba",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        mlp_bias=("mlp_bias", False),
        needs_kv_heads=True,
        partial=True,
        rotary_share=0.5,
        fixed={"partial_rotary_factor": 0.5, "mamba_conv_bias": True, "mamba_proj_bias": False},
        recurrent=RecurrentKeys("ssd", "mamba2", word="", attention_key="attn_layer_indices"),
        parts=Parts(recurrent="mamba", mlp="feed_forward", norm="final_layernorm"),
    ),
    "FalconH1ForCausalLM": Family(
        "falcon_h1",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        mlp_bias=("mlp_bias", False),
        needs_kv_heads=True,
        logit_scale=("lm_head_multiplier", 1.0),
        fixed={"mamba_conv_bias": True, "mamba_proj_bias": False, "projectors_bias": False},
        recurrent=RecurrentKeys("ssd", "falcon_h1", word="", beside=True),
        parts=Parts(recurrent="mamba", mlp="feed_forward", norm="final_layernorm"),
    ),
    "NemotronHForCausalLM": Family(
        "nemotron_h",
        needs_kv_heads=True,
        head_dim=128,
        block_norms=1,
        mlp="plain",
        nope="always",
        single=True,
        fixed={
            **{"mlp_hidden_act": "relu2", "mamba_hidden_act": "silu", "use_conv_bias": True, "n_shared_experts": 1},
            **{"attention_bias": False, "mlp_bias": False, "use_bias": False, "residual_in_fp32": False},
            **{"moe_latent_size": None, "sliding_window": None, "tie_word_embeddings": False},
        },
        no_dropout=("hidden_dropout",),
        file_names={"backbone.": "model."},
        experts=ExpertKeys(
            ("n_routed_experts", "num_local_experts"),
            dense="kinds",
            shared_width="moe_shared_expert_intermediate_size",
            gated=False,
            balance_bias="buffer",
            scores="sigmoid",
        ),
        recurrent=RecurrentKeys("ssd", "nemotron_h"),
        parts=Parts(
            **{"attention": "mixer", "attention_mark": "q_proj", "mlp": "mixer", "rotary": "", "norm": "norm_f"},
            **{"recurrent": "mixer", "recurrent_mark": "A_log", "embedding": "embeddings"},
        ),
    ),
    "MiniMaxForCausalLM": Family(
        "minimax",
        needs_kv_heads=True,
        theta=1_000_000.0,
        no_dropout=("router_jitter_noise",),
        fixed={"sliding_window": None},
        experts=ExpertKeys(("num_local_experts", "num_experts"), width="intermediate_size"),
        recurrent=RecurrentKeys("simple_decay", "lightning", every=2, attends_first=True),
        parts=Parts(recurrent="self_attn", recurrent_mark="qkv_proj"),
    ),
}
