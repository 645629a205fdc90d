"""A config.json with one bad value at a time, of every class: an error of four lines or an answer, and soon."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_kin import LLAMA_KIN
from ropewalk.core.error import UserError
from ropewalk.corpus.tokens.tokenizer import read_bpe
from ropewalk.rope.candidates import survey_candidates
from ropewalk.rope.scaling import Dynamic, Linear, Llama3, Ntk, Rope, Theta, Unchanged, Yarn
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.read import parse_shape, read_shape

EVIL: tuple[Any, ...] = (
    None,
    "",
    "abc",
    "1e-5",
    -1,
    0,
    1,
    2,
    1.5,
    10**9,
    10**400,
    1e300,
    math.inf,
    math.nan,
    True,
    [],
    [None],
    {},
)
METHODS: tuple[Rope, ...] = (Unchanged(), Theta(theta=1e9), Ntk(), Linear(), Dynamic(), Yarn(), Llama3())
BLOCKS: dict[str, dict[str, Any]] = {
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1}
    | {"attention_factor": 1.1, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": True, "attn_factor": 1.0},
    "linear": {"factor": 4.0, "original_max_position_embeddings": 32},
    "dynamic": {"factor": 2.0},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    "longrope": {"factor": 4.0, "short_factor": [1.0] * 16, "long_factor": [2.0] * 16, "attention_factor": 1.1}
    | {"original_max_position_embeddings": 32, "long_mscale": 1.1},
    "proportional": {"partial_rotary_factor": 0.5, "factor": 1.0},
    "default": {"rope_theta": 1e4, "factor": 1.0},
}
LONGEST_SECONDS = 5.0
ADVISED = "Qwen2ForCausalLM"  # advice knows angles alone: one class, whose blocks and thetas are all tried


def write_config(architecture: str) -> dict[str, Any]:
    family = SUPPORTED[architecture]
    return {
        "architectures": [architecture],
        "model_type": family.model_type,
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 128,
        "max_sequence_length": 128,
        "original_max_position_embeddings": 128,
        "hidden_act": "silu",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": [2],
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
        "rope_theta": family.theta,
        "rope_parameters": None,
        "rope_scaling": None,
        "rope_local_base_freq": None,
        "partial_rotary_factor": None,
        "sliding_window": 16 if family.windows != "all" else None,
        "use_sliding_window": False,
        "layer_types": None,
        "max_window_layers": 2,
        "sliding_window_pattern": 2,
        "no_rope_layers": None,
        "no_rope_layer_interval": 2,
        "query_pre_attn_scalar": 8,
        "quantization_config": None,
        "num_experts": None,
        "final_logit_softcapping": None,
        "max_length": 128,
    }


def mutate(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in config:
        for value in EVIL:
            yield f"{key}={value!r:.20}", {**config, key: value}
        yield f"no {key}", {other: value for other, value in config.items() if other != key}


def mutate_blocks(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    config = {key: value for key, value in config.items() if not key.startswith("original")}
    for kind, block in BLOCKS.items():
        for said, mutated in mutate({"rope_type": kind, **block}):
            yield f"{kind}: {said}", {**config, "rope_scaling": mutated}


def go_all_the_way(config: dict[str, Any], seen: set[Any]) -> str:
    """Read, advised on and extended by every method, as far as nothing is trained: how it ended."""
    try:
        shape = parse_shape(config, "config.json")
    except UserError as error:
        return error.what
    if shape in seen:
        return ""
    seen.add(shape)
    for method in METHODS:
        try:
            made = shape.stretch((), rope=method, context_tokens=1024)
            assert spell_layers(config, made.positions, context_tokens=1024).keys
        except UserError:
            continue
    if shape.base_rope in seen or shape.architecture != ADVISED:
        return ""
    seen.add(shape.base_rope)
    try:
        survey_candidates(shape.base_rope, 256)
    except UserError as error:
        return error.what
    return ""


def hold(mutations: Iterator[tuple[str, dict[str, Any]]]) -> None:
    seen: set[Any] = set()
    for said, mutated in mutations:
        begun = time.process_time()
        try:
            go_all_the_way(mutated, seen)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise AssertionError(f"{said}: {error!r}") from error
        assert time.process_time() - begun < LONGEST_SECONDS, said


@pytest.mark.parametrize("architecture", LLAMA_KIN)
def test_no_value_of_any_key_ends_in_a_traceback(architecture: str) -> None:
    config = write_config(architecture)
    assert go_all_the_way(config, set()) == ""
    hold(mutate(config))


def test_no_value_of_any_rope_block_ends_in_a_traceback() -> None:
    hold(mutate_blocks(write_config(ADVISED)))


VALUES = {
    "head_dim": (7, "an odd number"),
    "hidden_act": ("swoosh", "one of silu"),
    "rms_norm_eps": ("1e-5", "a number above 0"),
    "pad_token_id": (97, "one of 97 tokens"),
    "rope_theta": (1e31, "up to 1e+30"),
    "num_hidden_layers": (10**9, "a whole number"),
    "attention_bias": ("no", "true or false"),
}


@pytest.mark.parametrize("key", VALUES)
def test_a_bad_value_is_named_with_its_place(key: str) -> None:
    value, words = VALUES[key]
    with pytest.raises(UserError) as caught:
        parse_shape({**write_config("LlamaForCausalLM"), key: value}, "config.json")
    assert key in caught.value.where and words in caught.value.why


def test_a_head_of_one_pair_is_refused_and_minus_one_is_no_padding() -> None:
    with pytest.raises(UserError, match="pairs of dimensions") as caught:
        parse_shape({**write_config("LlamaForCausalLM"), "head_dim": 2}, "config.json")
    assert "a single pair" in caught.value.why
    parse_shape({**write_config("LlamaForCausalLM"), "pad_token_id": -1}, "config.json")


def test_nan_is_told_as_nan_and_not_as_a_disagreement() -> None:
    config = write_config("LlamaForCausalLM")
    block = {"rope_type": "yarn", "factor": math.nan, "original_max_position_embeddings": 32}
    for keys in (
        {"rope_theta": math.nan},
        {"rope_scaling": block, "rope_parameters": dict(block)},
        {"rope_parameters": {"rope_theta": math.nan}},
    ):
        with pytest.raises(UserError) as caught:
            parse_shape(config | keys, "config.json")
        assert "nan" in caught.value.why and "disagree" not in caught.value.what


@pytest.mark.parametrize(
    ("architecture", "keys", "why"),
    [
        ("PhiForCausalLM", {}, "a bias of the head"),
        ("GPTNeoForCausalLM", {}, "learned"),
        ("ModernBertForMaskedLM", {}, "an encoder"),
        ("ModernBertDecoderForCausalLM", {}, "a bias of the head"),  # it is causal
        ("GraniteMoeHybridForCausalLM", {"layer_types": ["mamba", "attention"]}, "supported with 0 only"),
        ("JambaForCausalLM", {"num_experts": 16}, "recurrent"),
        ("DeepseekV32ForCausalLM", {"kv_lora_rank": 512, "quantization_config": {"bits": 4}}, "indexer"),
        ("LlamaForCausalLM", {"num_local_experts": 32}, "experts"),
    ],
)
def test_the_reason_is_the_right_one(architecture: str, keys: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_shape({**write_config("LlamaForCausalLM"), "architectures": [architecture], **keys}, "config.json")
    assert why in caught.value.why


def test_a_folder_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    for read in (read_bpe, read_shape):
        with pytest.raises(UserError) as caught:
            read(tmp_path / "nowhere")
        assert "no such" in str(caught.value) and "fast" not in caught.value.what
