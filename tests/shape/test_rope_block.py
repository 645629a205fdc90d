"""Rope blocks as published bases have them: keys that change nothing pass, others are refused with their cure."""

import json
import math
from typing import Any

import pytest

from ropewalk.core.error import UserError
from ropewalk.rope.scaling import Linear, LongRope, Yarn
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape
from shared_folder import SHARED

CASES = SHARED / "cases" / "configs"
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LINEAR = {"type": "linear", "factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [3.0] * 8} | {
    "original_max_position_embeddings": 1024
}


def read(block: dict[str, Any], **keys: Any) -> ModelShape:
    return parse_shape({**LLAMA, "rope_scaling": block, **keys}, "config.json")


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        (YARN, "finetuned", True),
        (YARN, "attn_factor", 1.0),
        (YARN, "extrapolation_factor", 1),
        (YARN, "mscale", 1.0),  # alone it is the formula, in DeepSeek's code and in transformers
        (YARN, "mscale_all_dim", 0.0),
        (LINEAR, "finetuned", False),
        (LONGROPE, "long_mscale", math.sqrt(1.2)),  # 1 + ln 4 / ln 1024
        ({"rope_type": "default"}, "factor", 1.0),
        ({"rope_type": "default"}, "original_max_position_embeddings", 4096),
    ],
)
def test_what_changes_nothing_passes(block: dict[str, Any], key: str, value: Any) -> None:
    assert read({**block, key: value}) == read(block)


@pytest.mark.parametrize(
    ("block", "key", "value", "words"),
    [
        (YARN, "attn_factor", 0.8782488562869419, ("1 in all", "1.13863", "attention_factor: 1.0 in its place")),
        ({**YARN, "attention_factor": 1.5}, "attn_factor", 2, ("3 in all", "attention_factor: 3.0")),
        (YARN, "mscale", 0.5, ("1.06931 in all", "attention_factor: 1.06931")),
        (LONGROPE, "short_mscale", 1.3, ("as the factor, 1.3", "attention_factor: 1.3")),
        (YARN, "extrapolation_factor", 0.5, ("other programs may use it", "remove extrapolation_factor")),
        (YARN, "mscale_all_dim", 0.5, ("give mscale",)),
        (YARN, "low_freq_factor", 1.0, ("belongs to llama3",)),
        (LINEAR, "beta_fast", 32, ("belongs to yarn",)),
        ({"rope_type": "default"}, "factor", 4.0, ("default rope has no key factor", "4.0")),
        (YARN, "attn_factor", "1", ("'1'",)),
        (YARN, "factor", math.nan, ("it is nan",)),
        (YARN, "factor", 1e300, ("1e+300",)),
        (YARN, "beta_fast", "32", ("'32'", "must be a number")),
        (YARN, "truncate", "no", ("neither true nor false",)),
        (YARN, "type", "linear", ("disagree", "yarn", "linear")),
        (LONGROPE, "long_factor", [1.0] * 7 + [math.inf], ("it is inf",)),
    ],
)
def test_what_makes_another_model_names_key_place_and_cure(
    block: dict[str, Any], key: str, value: Any, words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        read({**block, key: value})
    assert caught.value.where.startswith("config.json: rope_scaling") and key in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_cure_that_is_followed_gives_what_it_says() -> None:
    assert read({**YARN, "attention_factor": 1.0}).stretched.attention_factor == 1
    assert read(YARN).stretched.attention_factor == pytest.approx(1.13863, rel=1e-5)


def test_a_longrope_without_a_factor_counts_from_its_two_lengths() -> None:
    inside = read(LONGROPE).stretched.rope
    top = {key: value for key, value in LONGROPE.items() if not key.startswith("original")}
    outside = read(top, original_max_position_embeddings=1024).stretched.rope
    assert isinstance(inside, LongRope) and inside == outside
    assert inside.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(1024)))


@pytest.mark.parametrize(
    ("keys", "context", "original"),
    [
        ({}, 4096, None),
        ({"max_sequence_length": 4096}, 4096, None),  # bases without scaling have this key too
        ({"max_sequence_length": 16384}, 16384, 4096),
        ({"model_max_length": 16384}, 16384, 4096),
        ({"original_max_position_embeddings": 4096}, 16384, 4096),
        ({"original_max_position_embeddings": 1024}, 4096, 1024),
    ],
)
def test_how_far_a_divided_base_reads(keys: dict[str, int], context: int, original: int | None) -> None:
    shape = read(LINEAR, **keys)
    assert shape.context_tokens == context
    assert shape.stretched.rope == Linear(theta=1e4, factor=4, original_tokens=original)
    told = read({**LINEAR, "original_max_position_embeddings": original}, **keys)
    assert told.stretched.rope == shape.stretched.rope


def test_a_yarn_that_keeps_another_length_reads_as_far_as_a_key_says() -> None:
    block = {**YARN, "factor": 16.0}
    assert read(block).context_tokens == 4096 and read(block, max_sequence_length=16384).context_tokens == 16384
    assert read(block, max_sequence_length=9999).context_tokens == 4096


def test_a_divided_base_is_written_so_that_it_is_read_again() -> None:
    config = {**LLAMA, "max_sequence_length": 4096, "max_length": 4096, "seq_length": 10**6, "auto_map": {}}
    shape = parse_shape(config, "test")
    for context in (16384, 65536):
        shape = shape.stretch((), rope=Linear(), context_tokens=context)
        config = spell_layers(config, shape.positions, context_tokens=context).apply(config)
        assert parse_shape(config, "test").positions == shape.positions
        assert parse_shape(config, "test").context_tokens == config["max_sequence_length"] == context
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 16.0}, "transformers has no other key there"
    assert (config["max_length"], config["seq_length"], "auto_map" in config) == (65536, 10**6, False)


@pytest.mark.skipif(not CASES.is_dir(), reason="the published configs are not on this machine")
def test_published_configs() -> None:
    def load(name: str) -> ModelShape:
        return parse_shape(json.loads((CASES / name / "config.json").read_text()), name)

    olmo3 = load("olmo3_7b_final_yarn").stretch((), rope=Yarn(), context_tokens=262144)
    assert olmo3.stretched.attention_factor == pytest.approx(0.1 * math.log(32) + 1)
    vicuna = load("vicuna_7b_v1_5_16k")
    assert vicuna.context_tokens == 16384 and vicuna.stretch((), rope=Linear(), context_tokens=16384) == vicuna
    assert load("nous_yarn_llama2_7b_64k").context_tokens == 65536
    assert load("nous_yarn_mistral_7b_128k").context_tokens == 131072
    with pytest.raises(UserError) as caught:
        load("r1_0528_qwen3_8b")
    assert caught.value.where == "r1_0528_qwen3_8b: rope_scaling.attn_factor"
    assert "attention_factor: 1.0" in caught.value.fix and "attn_factor: 1 " in caught.value.fix
