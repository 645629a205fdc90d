"""Shapes against transformers' own models, built without memory, and every config.json that must be refused."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from ropewalk.core.error import UserError
from ropewalk.rope.layers import plain_layers
from ropewalk.rope.scaling import Unchanged
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape, read_shape

SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], **SMALL}
MISTRAL: dict[str, Any] = {**LLAMA, "architectures": ["MistralForCausalLM"], "sliding_window": None}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "llama, tied": LlamaConfig(**SMALL, tie_word_embeddings=True, rope_theta=5e5),
    "llama, biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "llama, wide heads": LlamaConfig(**SMALL, head_dim=32),
    "llama, all heads": LlamaConfig(**{**SMALL, "num_key_value_heads": None}),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "mistral, wide heads": MistralConfig(**SMALL, sliding_window=None, head_dim=16),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL),
    "qwen3, biases": Qwen3Config(**SMALL, head_dim=16, attention_bias=True),
    "olmo2": Olmo2Config(**SMALL),
    "olmo2, biases": Olmo2Config(**SMALL, attention_bias=True),
    "llama, yarn": LlamaConfig(**SMALL, rope_parameters={**YARN, "rope_theta": 1e4}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_agrees(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.bfloat16)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.block_parameters == sum(parameter.numel() for parameter in model.model.layers[1].parameters())
    attention = model.model.layers[0].self_attn
    assert (shape.query_width, shape.kv_width) == (attention.q_proj.out_features, attention.k_proj.out_features)
    assert (shape.architecture, shape.dtype) == (type(model).__name__, "bfloat16")
    assert (shape.layers, shape.vocabulary, shape.context_tokens) == (3, 96, 128)
    assert (shape.bos_id, shape.eos_id) == (model.config.bos_token_id, model.config.eos_token_id)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_live_frequencies_follow_from_the_shape(name: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    running = Unchanged().complete(shape.base_rope, shape.context_tokens)
    live = model.model.rotary_emb
    assert running.inv_freq(shape.theta, shape.head_dim) == pytest.approx(live.inv_freq.double().numpy(), rel=1e-5)
    assert running.attention_factor == pytest.approx(live.attention_scaling)


def test_known_models() -> None:
    llama_2_7b = ModelShape("LlamaForCausalLM", 4096, 32, 32, 128, 11008, 32000, False, 4096, plain_layers(32, 1e4))
    llama_32_1b = ModelShape("LlamaForCausalLM", 2048, 32, 8, 64, 8192, 128256, True, 131072, plain_layers(16, 5e5))
    qwen3_06b = ModelShape(
        "Qwen3ForCausalLM", 1024, 16, 8, 128, 3072, 151936, True, 40960, plain_layers(28, 1e6), qk_norm="head"
    )
    assert llama_2_7b.parameters == 6_738_415_616
    assert llama_32_1b.parameters == 1_235_814_400
    assert qwen3_06b.parameters == 596_049_920
    assert qwen3_06b.query_width == 2 * qwen3_06b.width, "heads may be wider together than the model"


def test_both_dialects_give_one_shape() -> None:
    new = parse_shape({**LLAMA, "rope_parameters": {**YARN, "rope_theta": 5e5}}, "test")
    old = parse_shape({**LLAMA, "rope_theta": 5e5, "rope_scaling": YARN}, "test")
    oldest = parse_shape(
        {
            **LLAMA,
            "rope_theta": 5e5,
            "rope_scaling": {"type": "yarn", **{k: v for k, v in YARN.items() if k != "rope_type"}},
        },
        "test",
    )
    both = parse_shape(
        {**LLAMA, "rope_theta": 5e5, "rope_scaling": YARN, "rope_parameters": {**YARN, "rope_theta": 5e5}}, "test"
    )
    assert new == old == oldest == both
    assert new.rope is not None and new.rope.items() >= {**YARN, "rope_theta": 5e5}.items()


def test_plain_rope_is_plain_in_every_spelling() -> None:
    spellings: tuple[dict[str, Any], ...] = (
        {},
        {"rope_theta": 10000},
        {"rope_scaling": None, "rope_theta": 1e4},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "rope_theta": 1e4,
            "partial_rotary_factor": 1.0,
        },
    )
    assert {dataclasses.astuple(parse_shape({**LLAMA, **spelling}, "test")) for spelling in spellings} == {
        dataclasses.astuple(parse_shape(LLAMA, "test"))
    }
    assert parse_shape(LLAMA, "test").rope is None


def test_an_original_length_that_is_missing_is_the_context_as_in_transformers() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0}
    theirs = LlamaConfig(**SMALL, rope_scaling=dict(scaling)).rope_parameters
    ours = parse_shape({**LLAMA, "rope_scaling": scaling}, "test").rope
    assert theirs is not None and ours is not None and ours.items() >= theirs.items()


def test_token_ids_and_types_in_all_spellings() -> None:
    shape = parse_shape({**LLAMA, "eos_token_id": [7, 8], "bos_token_id": None, "torch_dtype": "float16"}, "test")
    assert (shape.eos_id, shape.bos_id, shape.dtype) == (7, None, "float16")
    assert parse_shape(LLAMA, "test").dtype == "float32"


def test_a_window_that_is_off_is_no_window() -> None:
    qwen = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 4096, "use_sliding_window": False}
    assert parse_shape({**qwen, "layer_types": ["full_attention"] * 3}, "test").qkv_bias
    assert parse_shape(MISTRAL, "test").architecture == "MistralForCausalLM"


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "formats of the rope keys disagree on theta": (
        {**LLAMA, "rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        ("disagree", "1000000", "10000"),
    ),
    "dialects disagree on the factor": (
        {**LLAMA, "rope_scaling": {**YARN, "factor": 8.0}, "rope_parameters": {**YARN, "rope_theta": 1e4}},
        ("disagree", "factor is 4.0", "factor is 8.0"),
    ),
    "dialects disagree on the type": (
        {**LLAMA, "rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        ("disagree", "yarn"),
    ),
    "rope per layer": (
        {**LLAMA, "rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_theta": 1e4}}},
        ("full_attention, sliding_attention",),
    ),
    "partial rotation": ({**LLAMA, "partial_rotary_factor": 0.5}, ("partial_rotary_factor is 0.5",)),
    "partial rotation inside": (
        {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        ("partial_rotary_factor is 0.5",),
    ),
    "a key that plain RoPE lacks": (
        {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8]}},
        ("mrope_section",),
    ),
    "rope is a list": ({**LLAMA, "rope_scaling": [1]}, ("[1]",)),
    "theta zero": ({**LLAMA, "rope_theta": 0}, ("it is 0", "above 1")),
    "theta negative": ({**LLAMA, "rope_theta": -1e4}, ("-10000",)),
    "theta infinite": ({**LLAMA, "rope_theta": math.inf}, ("inf",)),
    "theta a word": ({**LLAMA, "rope_theta": "1e6"}, ("'1e6'",)),
    "a float context": ({**LLAMA, "max_position_embeddings": 4096.0}, ("max_position_embeddings", "4096.0")),
    "no context": ({**LLAMA, "max_position_embeddings": None}, ("max_position_embeddings", "missing")),
    "no layers": ({**LLAMA, "num_hidden_layers": 0}, ("num_hidden_layers", "0")),
    "a truth value": ({**LLAMA, "vocab_size": True}, ("vocab_size", "True")),
    "heads that do not divide": ({**LLAMA, "num_key_value_heads": 3}, ("4 heads over 3",)),
    "a width that does not divide": ({**LLAMA, "hidden_size": 50}, ("a width of 50",)),
    "an id that is a word": ({**LLAMA, "eos_token_id": "</s>"}, ("eos_token_id", "</s>")),
    "float8": ({**LLAMA, "dtype": "float8_e4m3fn"}, ("float8_e4m3fn",)),
    "quantised": ({**LLAMA, "quantization_config": {"bits": 4}}, ("quantised", "bfloat16 or float32")),
    "mxfp4": (
        {**LLAMA, "architectures": ["GptOssForCausalLM"], "quantization_config": {"quant_method": "mxfp4"}},
        ("method is mxfp4", "Mxfp4Config(dequantize=True)", "save_original_format=False"),
    ),
    "fp8": ({**LLAMA, "quantization_config": {"quant_method": "fp8"}}, ("FineGrainedFP8Config(dequantize=True)",)),
    "no architecture": (SMALL, ("names no architecture", "it is missing", "docs/models.md")),
    "no architecture but a type": ({**SMALL, "model_type": "qwen3"}, ('add "architectures": ["Qwen3ForCausalLM"]',)),
    "an empty architecture": ({**SMALL, "architectures": []}, ("it is []",)),
    "mistral without key-value heads": (
        {key: value for key, value in MISTRAL.items() if key != "num_key_value_heads"},
        ("num_key_value_heads", "missing"),
    ),
    "windows that the class ignores": (
        {**LLAMA, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
        ("windows for 1 of 3", "llama ignores it", "MinistralForCausalLM"),
    ),
    "experts by key": ({**LLAMA, "num_local_experts": 8}, ("mixture of experts",)),
    "latent attention by key": ({**LLAMA, "kv_lora_rank": 512}, ("MLA",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_their_figures(name: str) -> None:
    config, words = REFUSED[name]
    with pytest.raises(UserError) as caught:
        parse_shape(config, "config.json")
    assert "config.json" in caught.value.where
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "missing"),
    [
        ("PhimoeForCausalLM", "random in training"),
        ("JetMoeForCausalLM", "attention has other matrices"),
        ("LongcatFlashForCausalLM", "latent attention"),
        ("DeepseekV32ForCausalLM", "sparse indexer (DSA)"),
        ("Llama4ForCausalLM", "in chunks"),
        ("MiniMaxM3SparseForConditionalGeneration", "layers of type minimax_m3_sparse"),
        ("MiniMaxM3VLForCausalLM", "layers of type minimax_m3_sparse"),
        ("Gemma3nForCausalLM", "share keys"),
        ("RecurrentGemmaForCausalLM", "linear or recurrent"),
        ("GPT2LMHeadModel", "learned"),
        ("OvisForConditionalGeneration", "inputs other than text"),
        ("PhiForCausalLM", "a bias of the head"),
        ("CamembertForCausalLM", "learned"),
        ("OptimisedLlamaForCausalLM", "no causal language model of this name"),
        ("AlbertaForCausalLM", "no causal language model of this name"),
        ("UnheardOfForCausalLM", "no causal language model of this name"),
    ],
)
def test_other_architectures_are_refused_by_what_is_missing(architecture: str, missing: str) -> None:
    with pytest.raises(UserError, match=architecture) as caught:
        parse_shape({**LLAMA, "architectures": [architecture]}, "test")
    assert missing in caught.value.why
    assert "docs/models.md" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "no config.json"),
        ("{", "line 1"),
        ("[1]", "[1]"),
        ("\ufffe{", "line 1"),
        (json.dumps(SMALL), "names no architecture"),
    ],
)
def test_files_that_are_no_config(text: str | None, word: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_shape(tmp_path)
    assert word in str(caught.value)
