"""Odd but real spellings in the files of the families of 2026: each gives the values of transformers, or the reason."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from conformance.published import build_text, count, read_live
from ropewalk.core.error import UserError
from ropewalk.shape.guessed import GUESSED
from ropewalk.shape.read import parse_shape

FULL, WINDOWED = "full_attention", "sliding_attention"
SIZES = {
    **{"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "tie_word_embeddings": False},
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"linear_conv_kernel_dim": 4, "layer_types": ["linear_attention", FULL] * 2},
}
GEMMA4 = {
    **{
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 0,
        "sliding_window": 8,
        "layer_types": [WINDOWED, FULL] * 2,
    },
    **{"num_kv_shared_layers": 0, "top_k_experts": 2, "moe_intermediate_size": 24, "expert_intermediate_size": None},
}
GOOD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "the block of RoPE has the axes of pictures, its class is for text": (
        "Qwen3_5ForCausalLM",
        "qwen3_5_text",
        DELTA
        | {
            "rope_parameters": {
                **{"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
                **{"mrope_interleaved": True, "mrope_section": [1, 1, 0]},
            }
        },
    ),
    "the older key of a tied head says no": (
        "Lfm2ForCausalLM",
        "lfm2",
        {
            "layer_types": ["conv", FULL] * 2,
            "block_multiple_of": 8,
            "tie_embedding": False,
            "tie_word_embeddings": True,
        },
    ),
    "experts beside the MLP, values that are keys": (
        "Gemma4ForCausalLM",
        "gemma4_text",
        GEMMA4
        | {"enable_moe_block": True, "num_experts": 8, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
    ),
    "keys of experts that are null, since it has none": (
        "Gemma4ForCausalLM",
        "gemma4_text",
        GEMMA4 | {"enable_moe_block": False, "num_experts": None, "top_k_experts": None, "moe_intermediate_size": None},
    ),
    "dynamic with alpha, which is a fixed theta": (
        "HunYuanDenseV1ForCausalLM",
        "hunyuan_v1_dense",
        {"rope_theta": 1e4, "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "mscale": 1.0}},
    ),
    "a block that only says default": (
        "SeedOssForCausalLM",
        "seed_oss",
        {"rope_theta": 1e7, "rope_scaling": {"rope_type": "default"}, "attention_bias": True, "attention_dropout": 0.1},
    ),
    "the share of a head inside the block alone": (
        "Glm4MoeForCausalLM",
        "glm4_moe",
        EXPERTS
        | {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "use_qk_norm": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}},
    ),
}
REFUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "num_experts": ("Gemma4ForCausalLM", "gemma4_text", GEMMA4 | {"enable_moe_block": True, "num_experts": None}),
    "num_global_key_value_heads": (
        "Gemma4ForCausalLM",
        "gemma4_text",
        GEMMA4 | {"attention_k_eq_v": True, "num_global_key_value_heads": 3},
    ),
    "expert_selection_fn": (
        "Cohere2MoeForCausalLM",
        "cohere2_moe",
        EXPERTS | {"num_experts": 4, "expert_selection_fn": "sigmoid", "layer_types": [WINDOWED, FULL] * 2},
    ),
    "values that are wider than the keys": ("MiMoV2FlashForCausalLM", "mimo_v2_flash", EXPERTS),
}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    GUESSED.clear()


def write(case: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    architecture, kind, changes = case
    return {"architectures": [architecture], "model_type": kind, **SIZES, **changes}


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_file_gives_the_values_of_transformers(name: str) -> None:
    shape, model = parse_shape(write(GOOD[name]), "config.json"), build_text(write(GOOD[name]))
    assert shape.parameters == count(model)
    assert shape.tied == model.config.tie_word_embeddings
    for layer, live in zip(shape.positions, read_live(model), strict=True):
        assert layer.window_tokens == live.window
        if live.frequencies is not None:
            head_dim = shape.rotary_dims[shape.positions.index(layer)]
            np.testing.assert_allclose(layer.inv_freq(head_dim), live.frequencies, rtol=1e-5)
            assert layer.attention_factor == pytest.approx(live.factor)


@pytest.mark.parametrize("reason", REFUSED)
def test_an_odd_file_that_no_class_runs_so_is_refused_with_the_reason(reason: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_shape(write(REFUSED[reason]), "config.json")
    assert reason in f"{refused.value.where} {refused.value.why}"
