"""Llama and the architectures that compute as it does, one line of data each; family.py explains the fields.

One set of weights can have several class names. Llama, Mistral, Ministral and SmolLM3 compute the same. They differ in
the positions that their config.json can describe.
"""

from collections.abc import Mapping

from ropewalk.shape.family import Family

_ATTENTION_BIAS, _MLP_BIAS = ("attention_bias", False), ("mlp_bias", False)

LLAMA_KIN: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(
        "llama",
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        mlp_bias=_MLP_BIAS,
        kin=("MistralForCausalLM", "MinistralForCausalLM", "SmolLM3ForCausalLM"),
    ),
    "MistralForCausalLM": Family(
        "mistral",
        needs_kv_heads=True,
        windows="all",
        kin=("MinistralForCausalLM", "SmolLM3ForCausalLM"),
    ),
    "MinistralForCausalLM": Family(
        "ministral", needs_kv_heads=True, needs_head_dim=True, windows="some", kin=("SmolLM3ForCausalLM",)
    ),
    "Ministral3ForCausalLM": Family(
        "ministral3",
        needs_kv_heads=True,
        head_dim=128,
        windows="all",
        window_tokens=None,
        default_rope={
            **{"rope_type": "yarn", "rope_theta": 1_000_000.0, "factor": 16.0},
            **{"original_max_position_embeddings": 16_384, "beta_fast": 32.0, "beta_slow": 1.0},
            **{"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
        },
        kept_rope_keys=("llama_4_scaling_beta", "original_max_position_embeddings"),
    ),
    "SmolLM3ForCausalLM": Family(
        "smollm3",
        pad_id=128_004,
        window_rule="nope",
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        mlp_bias=_MLP_BIAS,
        needs_kv_heads=True,
        tied=True,
        windows="some",
        window_switch=True,
        window_tokens=None,
        nope="switch",
        theta=2_000_000.0,
    ),
    "ArceeForCausalLM": Family(
        "arcee",
        qkv_bias=_ATTENTION_BIAS,
        output_bias=_ATTENTION_BIAS,
        mlp_bias=_MLP_BIAS,
        mlp="plain",
    ),
    "HeliumForCausalLM": Family(
        "helium",
        head_dim=128,
        equal_heads=("head_dim",),
        qkv_bias=_ATTENTION_BIAS,
        mlp_bias=_MLP_BIAS,
        needs_kv_heads=True,
        theta=100_000.0,
    ),
    "SeedOssForCausalLM": Family(
        "seed_oss",
        null_head_dim=True,
        qkv_bias=("attention_bias", True),
        output_bias=("attention_out_bias", False),
        mlp_bias=_MLP_BIAS,
        needs_kv_heads=True,
        head_dim=128,
        no_dropout=("attention_dropout", "residual_dropout"),
    ),
    "Ernie4_5ForCausalLM": Family(
        "ernie4_5",
        null_head_dim=True,
        fixed={"use_bias": False},
        needs_kv_heads=True,
        head_dim=128,
        tied=True,
        theta=500_000.0,
    ),
}
