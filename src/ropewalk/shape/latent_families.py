"""The supported classes with latent attention (MLA), one line of data each; what a field means stands in family.py.

Kimi K2 names the class of DeepSeek V3, so it is read as such; a folder that ropewalk writes names its model type too.
"""

from collections.abc import Mapping
from dataclasses import replace

from ropewalk.shape.family import BALANCED, ExpertKeys, Family, LatentKeys

_BIAS = ("attention_bias", False)
_EXPERTS = ExpertKeys(("n_routed_experts", "num_experts"), dense="first", shared="n_shared_experts")
_SIGMOID = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}

LATENT: Mapping[str, Family] = {
    "DeepseekV2ForCausalLM": Family(
        "deepseek_v2",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        cos_sin="complex",
        fixed={"mlp_bias": False, "norm_topk_prob": False, "scoring_func": "softmax", "moe_layer_freq": 1},
        experts=_EXPERTS,
        latent=LatentKeys(),
    ),
    "DeepseekV3ForCausalLM": Family(
        "deepseek_v3",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        needs_kv_heads=True,
        fixed=_SIGMOID,
        experts=BALANCED,
        latent=LatentKeys(obeys_head_dim=True),
    ),
    "Glm4MoeLiteForCausalLM": Family(
        "glm4_moe_lite",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        needs_kv_heads=True,
        fixed=_SIGMOID,
        experts=replace(BALANCED, dense="types"),
        latent=LatentKeys(obeys_head_dim=True),
    ),
    "MiniCPM3ForCausalLM": Family(
        "minicpm3",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        mlp_bias=("mlp_bias", False),
        needs_kv_heads=True,
        tied=True,
        logit_scale=("dim_model_base", 256.0),
        logit_by_width=True,
        latent=LatentKeys(value_of_width=True),
    ),
    "YoutuForCausalLM": Family(
        "youtu",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        needs_kv_heads=True,
        tied=True,
        fixed={"mlp_bias": False},
        latent=LatentKeys(obeys_head_dim=True),
    ),
}
