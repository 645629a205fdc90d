"""The supported mixtures of experts, one line of data each; what a field means stands in family.py."""

from collections.abc import Mapping

from ropewalk.shape.family import BALANCED, ExpertKeys, Family, Parts

_ATTENTION_BIAS = ("attention_bias", False)

MIXTURES: Mapping[str, Family] = {
    "Qwen2MoeForCausalLM": Family(
        "qwen2_moe",
        qkv_bias=("qkv_bias", True),
        needs_kv_heads=True,
        fixed={"use_sliding_window": False},
        experts=ExpertKeys(
            dense="step", shared_width="shared_expert_intermediate_size", shared_gate=True, may_have_none=True
        ),
    ),
    "Qwen3MoeForCausalLM": Family(
        "qwen3_moe",
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        qk_norm="head",
        needs_kv_heads=True,
        fixed={"use_sliding_window": False},
        experts=ExpertKeys(("num_experts", "num_local_experts"), dense="step", may_have_none=True),
    ),
    "OlmoeForCausalLM": Family(
        "olmoe",
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        qk_norm="all_heads",
        experts=ExpertKeys(("num_experts", "num_local_experts"), width="intermediate_size"),
    ),
    "FlexOlmoForCausalLM": Family(
        "flex_olmo",
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        qk_norm="all_heads",
        theta=500_000.0,
        experts=ExpertKeys(("num_experts", "num_local_experts"), width="intermediate_size"),
    ),
    "Glm4MoeForCausalLM": Family(
        "glm4_moe",
        qkv_bias=_ATTENTION_BIAS,
        qk_norm="head",
        qk_norm_key="use_qk_norm",
        needs_kv_heads=True,
        partial=True,
        rotary_share=0.5,
        experts=BALANCED,
    ),
    "GraniteMoeForCausalLM": Family(
        "granitemoe",
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        logit_scale=("logits_scaling", 1.0),
        logit_divides=True,
        experts=ExpertKeys(("num_local_experts",), width="intermediate_size", router="router"),
        parts=Parts(mlp="block_sparse_moe"),
    ),
    "GraniteMoeSharedForCausalLM": Family(
        "granitemoeshared",
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        logit_scale=("logits_scaling", 1.0),
        logit_divides=True,
        experts=ExpertKeys(
            ("num_local_experts",),
            width="intermediate_size",
            shared_width="shared_intermediate_size",
            router="router",
        ),
        parts=Parts(mlp="block_sparse_moe"),
    ),
    "Ernie4_5_MoeForCausalLM": Family(
        "ernie4_5_moe",
        fixed={"use_bias": False},
        needs_kv_heads=True,
        tied=True,
        theta=500_000.0,
        experts=ExpertKeys(
            ("moe_num_experts", "num_experts"),
            "moe_k",
            dense="range",
            shared="moe_num_shared_experts",
            balance_bias="parameter",
        ),
    ),
    "HunYuanMoEV1ForCausalLM": Family(
        "hunyuan_v1_moe",
        ntk_alpha=True,
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        qk_norm="head",
        needs_kv_heads=True,
        needs_head_dim=True,
        experts=ExpertKeys(
            ("num_experts", "num_local_experts"),
            per_token="moe_topk",
            per_layer=True,
            width="intermediate_size",
            shared_width="intermediate_size",
        ),
    ),
    "MixtralForCausalLM": Family(
        "mixtral",
        needs_kv_heads=True,
        windows="all",
        window_tokens=None,
        theta=1_000_000.0,
        no_dropout=("router_jitter_noise",),
        experts=ExpertKeys(("num_local_experts", "num_experts"), width="intermediate_size"),
    ),
    "GptOssForCausalLM": Family(
        "gpt_oss",
        qkv_bias=("attention_bias", True),
        output_bias=("attention_bias", True),
        sinks=True,
        needs_kv_heads=True,
        head_dim=64,
        default_rope={
            **{"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
            **{"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
        },
        cos_sin="single",
        windows="some",
        window_tokens=128,
        window_every=2,
        theta=150_000.0,
        experts=ExpertKeys(
            ("num_local_experts", "num_experts"),
            width="intermediate_size",
            router="router",
            router_bias=True,
            expert_bias=True,
        ),
    ),
    "MiniMaxM2ForCausalLM": Family(
        "minimax_m2",
        qk_norm="all_heads",
        needs_kv_heads=True,
        head_dim=128,
        partial=True,
        rotary_key="rotary_dim",
        rotary_counts=True,
        theta=5_000_000.0,
        no_dropout=("router_jitter_noise",),
        experts=ExpertKeys(
            ("num_local_experts", "num_experts"), width="intermediate_size", balance_bias="buffer", scores="sigmoid"
        ),
    ),
    "Dots1ForCausalLM": Family(
        "dots1",
        window_rule="later",
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        qk_norm="head",
        needs_kv_heads=True,
        windows="some",
        window_tokens=4096,
        experts=BALANCED,
    ),
}
