"""config.json files that a user altered by hand: the true reason where they cannot be read, and never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest

from conformance.published import read_published
from ropewalk.core.error import UserError
from ropewalk.shape.read import parse_shape, read_shape
from ropewalk.shape.shipped import BASES

QWEN, LLAMA31, MIXTRAL = "Qwen/Qwen3-8B-Base", "meta-llama/Llama-3.1-8B", "mistralai/Mixtral-8x7B-v0.1"
QWEN_MOE, ERNIE, PHI = (
    "Qwen/Qwen3-235B-A22B",
    "baidu/ERNIE-4.5-21B-A3B-Base-PT",
    "microsoft/Phi-3.5-mini-instruct",
)
APERTUS, GPT_OSS = "swiss-ai/Apertus-8B-2509", "openai/gpt-oss-20b"
YARN = {"rope_type": "yarn", "factor": 4.0}


def read(base: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BASES / base / "config.json").read_text(encoding="utf-8"))
    return found


ALTERED: dict[str, tuple[str, dict[str, Any], str]] = {  # base, keys, and what the error must say
    "two classes": (QWEN, {"architectures": ["Qwen3ForCausalLM", "LlamaForCausalLM"]}, "several architectures"),
    "another class's type": (QWEN, {"model_type": "llama"}, "whose type is qwen3, and llama is the type of Llama"),
    "a count of 0": (QWEN, {"max_position_embeddings": 0}, "it is 0, and must be a whole number from 1 to"),
    "a context beyond all": (QWEN, {"max_position_embeddings": 10**9}, "a whole number from 1 to 16777216"),
    "theta is null": (QWEN, {"rope_theta": None}, "it is null, for which the class has no default"),
    "an empty type": (QWEN, {"torch_dtype": ""}, "an empty text is none of"),
    "yarn beyond the context": (
        QWEN,
        {"rope_scaling": {**YARN, "original_max_position_embeddings": 1 << 17}},
        "it counts from 131072 tokens, and max_position_embeddings is 32768",
    ),
    "llama3 beyond the context": (LLAMA31, {"max_position_embeddings": 4096}, "it counts from 8192 tokens"),
    "longrope beyond the context": (PHI, {"max_position_embeddings": 2048}, "it counts from 4096 tokens"),
    "dynamic counts from another length": (
        QWEN,
        {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 8192}},
        "it is 8192, and transformers counts from max_position_embeddings, 32768",
    ),
    "dynamic with a length beside it": (
        QWEN,
        {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "original_max_position_embeddings": 8192},
        "it is 8192, and transformers counts from max_position_embeddings, 32768",
    ),
    "llama3 without its turns": (
        QWEN,
        {"rope_scaling": {"rope_type": "llama3", "factor": 4.0}},
        "it has no low_freq_factor and no high_freq_factor",
    ),
    "an original of 0": (PHI, {"original_max_position_embeddings": 0}, "greater than 0 (given: 0)"),
    "no experts": (MIXTRAL, {"num_local_experts": 0}, "it is 0, and must be a whole number from 1"),
    "dense layers as a text": (QWEN_MOE, {"mlp_only_layers": "4096"}, "must be a list of layers, by numbers from 0"),
    "dense layers as texts": (QWEN_MOE, {"mlp_only_layers": ["0"]}, "must be a list of layers"),
    "a dense layer beyond the last": (QWEN_MOE, {"mlp_only_layers": [94]}, "by numbers from 0 to 93"),
    "a last layer as a text": (ERNIE, {"moe_layer_end_index": "x"}, "it is 'x', and must be a whole number of -1 or"),
    "no block of RoPE, and a theta that the class ignores": (
        APERTUS,
        {"rope_scaling": None, "rope_theta": 5e4},
        "rope_theta inside is 12000000.0, rope_theta outside is 50000.0",
    ),
    "no block of RoPE, and a length that the class reads": (
        GPT_OSS,
        {"rope_scaling": None, "original_max_position_embeddings": 8192},
        "inside is 4096, the one outside is 8192",
    ),
    "a method under its older key, where a layer type has one": (
        "google/gemma-3-1b-pt",
        {"rope_scaling": {"type": "linear", "factor": 8.0}},
        "reads rope_type alone and runs plain RoPE",
    ),
    "a last layer of -2": (ERNIE, {"moe_layer_end_index": -2}, "must be a whole number of -1 or more"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_an_altered_file_is_refused_with_the_true_reason(case: str) -> None:
    base, keys, told = ALTERED[case]
    with pytest.raises(UserError) as caught:
        parse_shape(read(base) | keys, "config.json")
    assert told in str(caught.value), caught.value


def test_a_class_that_may_have_no_experts_is_dense_without_and_null_is_the_default() -> None:
    published = read_published()
    for base in (QWEN_MOE, "Qwen/Qwen1.5-MoE-A2.7B-Chat", "Qwen/Qwen3-Next-80B-A3B-Instruct"):
        assert parse_shape(published[base], "config.json").experts is not None
        assert parse_shape(published[base] | {"num_experts": 0}, "config.json").experts is None
    assert parse_shape(read(ERNIE) | {"moe_layer_end_index": None}, "config.json") == parse_shape(read(ERNIE), "x")


def test_a_text_part_within_a_text_part_is_not_taken_for_the_defaults_of_its_class() -> None:
    config = read("google/gemma-3-4b-pt")
    nested = config | {"text_config": {"text_config": config["text_config"]}}
    with pytest.raises(UserError, match="a text part of its own"):
        parse_shape(nested, "config.json")


def test_a_key_that_stands_twice_is_refused_with_both_values(tmp_path: Path) -> None:
    text = json.dumps(read(QWEN))[:-1] + ', "rope_theta": 5.0}'
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"its values are 1000000, 5\.0"):
        read_shape(tmp_path)


def test_the_reason_of_a_bad_longrope_does_not_print_its_factors() -> None:
    block = {**read(PHI)["rope_scaling"], "short_factor": [1.0, 1.0, 1.0]}
    with pytest.raises(UserError, match="3 short factors and 48 long factors") as caught:
        parse_shape(read(PHI) | {"rope_scaling": block}, "config.json")
    assert len(caught.value.why) < 200


@pytest.mark.parametrize("base", [QWEN_MOE, ERNIE, PHI, "google/gemma-3-4b-pt", "openai/gpt-oss-20b"])
def test_no_value_of_any_key_ends_in_a_traceback(base: str) -> None:
    config = read(base)
    if "layer_types" not in config and "text_config" not in config:
        config["num_hidden_layers"] = 2  # for speed
    for key in config:
        for value in (None, "4096", "", -1, 0, 1.5, [], {}, True, float("nan"), 10**30, [None], {"a": None}):
            try:
                parse_shape(config | {key: value}, "config.json")
            except UserError as error:
                assert error.why and error.fix and error.where


@pytest.mark.parametrize("base", [APERTUS, GPT_OSS])
def test_an_empty_block_of_rope_is_plain_where_a_missing_one_is_scaled(base: str) -> None:
    bare = {key: value for key, value in read(base).items() if key not in ("rope_scaling", "rope_parameters")}
    assert parse_shape(bare, "config.json").rope is not None
    assert parse_shape(bare | {"rope_parameters": {}}, "config.json").rope is None
