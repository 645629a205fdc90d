"""The text part of a multimodal config.json: published files, defaults of the classes, and what is refused."""

import copy
import itertools
import json
from typing import Any

import pytest
import transformers
from transformers import AutoConfig

from ropewalk.core.error import UserError
from ropewalk.rope.scaling import Linear, Unchanged
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.read import parse_shape
from ropewalk.shape.wrappers import WRAPPERS, find_wrapper, read_text_config, write_text_config

VISION = {"hidden_size": 1152, "model_type": "siglip_vision_model"}
GEMMA3_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "vision_config": VISION,
}
MISTRAL_SMALL: dict[str, Any] = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "image_token_index": 10,
    "model_type": "mistral3",
    "multimodal_projector_bias": False,
    "spatial_merge_size": 2,
    "text_config": {
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "initializer_range": 0.02,
        "intermediate_size": 32768,
        "max_position_embeddings": 131072,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000000.0,
        "sliding_window": None,
        "use_cache": True,
        "vocab_size": 131072,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {"model_type": "pixtral"},
}
QWEN2_5_VL_7B: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "image_token_id": 151655,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vision_config": {"depth": 32, "model_type": "qwen2_5_vl"},
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 152064,
}
QWEN3_VL_4B: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": 151655,
    "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2560,
        "initializer_range": 0.02,
        "intermediate_size": 9728,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": 151936,
    },
    "tie_word_embeddings": True,
    "vision_config": {"depth": 24, "model_type": "qwen3_vl"},
}
PUBLISHED = {"gemma3": GEMMA3_4B, "mistral3": MISTRAL_SMALL, "qwen2_5_vl": QWEN2_5_VL_7B, "qwen3_vl": QWEN3_VL_4B}
SHAPES = {  # class, layers, width, heads, key-value heads, head width, vocabulary, tied, theta, context
    "gemma3": ("Gemma3ForCausalLM", 34, 2560, 8, 4, 256, 262208, True, 1e6, 131072),
    "mistral3": ("MistralForCausalLM", 40, 5120, 32, 8, 128, 131072, False, 1e9, 131072),
    "qwen2_5_vl": ("Qwen2ForCausalLM", 28, 3584, 28, 4, 128, 152064, False, 1e6, 128000),
    "qwen3_vl": ("Qwen3ForCausalLM", 36, 2560, 32, 8, 128, 151936, True, 5e6, 262144),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_files(kind: str) -> None:
    config = json.loads(json.dumps(PUBLISHED[kind]))
    shape = parse_shape(config, "config.json")
    assert config == PUBLISHED[kind], "the file's own mapping is not changed"
    found = (shape.architecture, shape.layers, shape.width, shape.heads, shape.kv_heads, shape.head_dim)
    assert (*found, shape.vocabulary, shape.tied, shape.theta, shape.context_tokens) == SHAPES[kind]
    assert shape.dtype == "bfloat16"
    assert isinstance(shape.stretched.rope, Linear if kind == "gemma3" else Unchanged)
    text = transformers.AutoConfig.for_model(**config).get_text_config()
    assert (text.num_hidden_layers, text.head_dim if kind != "qwen2_5_vl" else 128) == (shape.layers, shape.head_dim)
    assert sum(layer.window_tokens is not None for layer in shape.positions) == (29 if kind == "gemma3" else 0)


@pytest.mark.parametrize("name", [name for name, row in WRAPPERS.items() if row.runs])
def test_a_default_that_the_text_class_has_not_is_in_the_table(name: str) -> None:
    """A missing key must mean what it means in the multimodal class, for each key that the text class reads too."""
    row = WRAPPERS[name]
    theirs = AutoConfig.for_model(row.text)
    architecture = row.runs[row.text]
    if architecture not in SUPPORTED:
        return
    text = AutoConfig.for_model(SUPPORTED[architecture].model_type).to_dict()
    given = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    given |= {"num_key_value_heads", "max_position_embeddings", "model_type", "layer_types", "max_window_layers"}
    # The first is asked of the top of the file, the second has two names in files.
    given |= {"tie_word_embeddings", "num_local_experts"}
    given |= {"rope_parameters", "bos_token_id", "eos_token_id", "transformers_version", "_name_or_path"}
    given |= {"num_local_experts", "num_experts_per_tok", "moe_intermediate_size"}  # refused where they are missing
    given |= {"tie_word_embeddings"}  # the top of the file decides, and its default is that of the text class
    assert AutoConfig.for_model(row.text.removesuffix("_text")).tie_word_embeddings == SUPPORTED[architecture].tied
    for key, value in theirs.to_dict().items():
        if key in text and key not in given and text[key] != value:
            assert row.assumed[key] == value, key
    assert row.assumed["rope_theta"] == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_head_that_the_top_of_the_file_names_is_tied_as_in_the_class(name: str) -> None:
    kind = getattr(transformers, name).config_class
    for top, told in itertools.product(
        (False, True), ({}, {"tie_word_embeddings": False}, {"tie_word_embeddings": True})
    ):
        text = {"model_type": WRAPPERS[name].text, "logit_scale": 1.0, **told}
        config = {"tie_word_embeddings": top, "text_config": text}
        theirs = kind(**copy.deepcopy(config)).tie_word_embeddings
        ours = read_text_config({"architectures": [name], **config}, "config.json")["tie_word_embeddings"]
        assert bool(ours) == theirs, (top, told)


@pytest.mark.parametrize("name", ["LlavaForConditionalGeneration", "Idefics3ForConditionalGeneration"])
def test_sizes_that_published_files_leave_out_are_those_of_the_class(name: str) -> None:
    """LLaVA 1.5 7B and Idefics3 8B give few sizes of their text models."""
    text = {"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 32_064, "max_position_embeddings": 4096}
    config = {"architectures": [name], "text_config": text, "vision_config": VISION, "tie_word_embeddings": False}
    theirs = getattr(transformers, name).config_class(text_config=dict(text)).text_config
    shape = parse_shape(config, "config.json")
    found = (shape.width, shape.heads, shape.kv_heads, shape.layers, shape.mlp_width, shape.vocabulary)
    assert found == (
        *(theirs.hidden_size, theirs.num_attention_heads, theirs.num_key_value_heads, theirs.num_hidden_layers),
        *(theirs.intermediate_size, 32_064),
    )
    defaults = AutoConfig.for_model("llama")
    assert {key: getattr(defaults, key) for key in WRAPPERS[name].assumed} == WRAPPERS[name].assumed
    with pytest.raises(UserError, match="hidden_size is not usable"):  # the defaults of another text model
        parse_shape({**config, "text_config": {**text, "model_type": "qwen2"}}, "config.json")


def test_gemma_3_takes_the_defaults_of_its_class() -> None:
    theirs, row = AutoConfig.for_model("gemma3_text"), WRAPPERS["Gemma3ForConditionalGeneration"]
    assert {key: getattr(theirs, key) for key in row.assumed} == row.assumed


@pytest.mark.parametrize("kind", PUBLISHED)
def test_written_back_unchanged_is_the_same_file_but_for_what_it_left_open(kind: str) -> None:
    config = PUBLISHED[kind]
    again = write_text_config(config, read_text_config(config, "c"), "c")
    expected = config | {"tie_word_embeddings": SHAPES[kind][7]}
    if kind == "qwen2_5_vl":  # both versions of transformers read this for text and images
        expected["rope_scaling"] = {"type": "default", "mrope_section": [16, 24, 24]}
    assert again == expected


def test_m_rope_of_both_formats() -> None:
    old = parse_shape(QWEN2_5_VL_7B, "c")
    axes = {"mrope_section": [16, 24, 24]}
    for block in (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **axes}, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e6, **axes}, "rope_scaling": None},
        {"rope_scaling": {"type": "default", "rope_type": "default", **axes}},
        {"rope_scaling": axes},
    ):
        assert parse_shape(QWEN2_5_VL_7B | block, "c").positions == old.positions
    yarn = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768, **axes}
    assert parse_shape(QWEN2_5_VL_7B | {"rope_scaling": yarn}, "c").stretched.rope.kind == "yarn"


def test_refusals_name_the_key() -> None:
    for changes, what, where in (
        ({"text_config": None}, "has no text part", "text_config"),
        ({"text_config": [1]}, "has no text part", "text_config"),
        ({"text_config": {"model_type": "blocks"}}, "the text part blocks is not supported", "architectures"),
        ({"text_config": {**GEMMA3_4B["text_config"], "hidden_size": 0}}, "hidden_size is not usable", "hidden_size"),
        ({"text_config": {**GEMMA3_4B["text_config"], "use_bidirectional_attention": True}}, "bidirectional", "bidir"),
        ({"quantization_config": {"bits": 4}}, "the weights are quantised", "quantization_config"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is not usable", "tie_word_embeddings"),
    ):
        with pytest.raises(UserError, match=what) as caught:
            parse_shape(GEMMA3_4B | changes, "config.json")
        assert where in caught.value.where


def test_a_class_that_nobody_listed_is_no_wrapper() -> None:
    for names in ("", None, [], [None], ["LlamaForCausalLM"], ["OtherForConditionalGeneration"]):
        assert find_wrapper({"architectures": names}) is None
    config = {"architectures": ["LlamaForCausalLM"], "text_config": {}}
    assert read_text_config(config, "c") is config and write_text_config(config, {"a": 1}, "c") == {"a": 1}


ODD: tuple[Any, ...] = (None, 0, -1, 1.5, "x", [], {}, [1], {"a": 1}, True, float("nan"), 10**30, [None])
ODD += ({"rope_type": []}, {"mrope_section": 5}, {"type": {}})
OPTIONAL = ("rope_parameters", "rope_scaling", "quantization_config", "tie_word_embeddings", "layer_types", "dtype")


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_file_with_an_odd_value_is_refused_or_comes_back_the_same(kind: str) -> None:
    """At each key of the file and of its text part; what can be read is written back and read again."""
    found = 0
    for level in ("top", "text_config"):
        for key in {*(PUBLISHED[kind].get(level, PUBLISHED[kind])), *OPTIONAL}:
            for value in ODD:
                config = json.loads(json.dumps(PUBLISHED[kind]))
                inside = config if level == "top" else config.get("text_config", config)
                inside[key] = value
                try:
                    shape = parse_shape(config, "c")
                    spelled = spell_layers(
                        read_text_config(config, "c"), shape.positions, context_tokens=shape.context_tokens
                    )
                    again = write_text_config(config, spelled.apply(read_text_config(config, "c")), "c")
                except UserError:
                    continue
                assert parse_shape(again, "c").positions == shape.positions, (level, key, value)
                found += 1
    assert found > 50
