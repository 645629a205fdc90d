"""A file that lacks a key: its shape is that of the class, which has a default of its own, or the file is refused.

A missing key and one of the blocks of RoPE are tried in every class, so that no row assumes another default.
"""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig

from conformance.tiny_families import make_model, make_settings
from ropewalk.core.error import UserError
from ropewalk.model.architectures import class_of
from ropewalk.model.check_rope import check_positions
from ropewalk.model.null_entries import drop_nulls
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

FULL, WINDOWED = "full_attention", "sliding_attention"
PLAIN = {"rope_type": "default", "rope_theta": 1e4}


def read(settings: dict[str, Any]) -> PreTrainedConfig:
    """The config as the class completes it."""
    kind = class_of(settings["architectures"][0]).config_class
    assert kind is not None
    return kind(**{key: value for key, value in drop_nulls(settings).items() if key != "model_type"})


def parse_saved(config: PreTrainedConfig) -> ModelShape:
    return parse_shape({**config.to_dict(), "architectures": config.architectures}, "saved")


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_without_any_key_the_shape_is_that_of_the_class(architecture: str) -> None:
    given = make_settings(architecture)
    for key in given.keys() - {"architectures", "model_type"}:
        settings = {name: value for name, value in given.items() if name != key}
        try:
            shape = parse_shape(settings, "config.json")
        except UserError as refusal:
            assert refusal.fix
            continue
        config = read(settings)
        saved = replace(parse_saved(config), bos_id=shape.bos_id, eos_id=shape.eos_id)  # a tokenizer has these
        assert saved == shape, key
        with torch.device("meta"):
            model = class_of(architecture)(config)
        assert sum(each.numel() for each in model.parameters()) == shape.parameters, key


FULL_ROPE, WINDOW_ROPE = PLAIN | {"rope_theta": 5e4}, PLAIN | {"rope_theta": 2e4}
BLOCKS: dict[str, Any] = {
    "none": None,
    "empty": {},
    "full alone": {FULL: FULL_ROPE},
    "windowed alone": {WINDOWED: WINDOW_ROPE},
    "full is null": {FULL: None, WINDOWED: WINDOW_ROPE},
    "windowed is empty": {FULL: FULL_ROPE, WINDOWED: {}},
    "no theta": {FULL: {"rope_type": "default"}, WINDOWED: WINDOW_ROPE},
    "yarn without its length": {FULL: {**FULL_ROPE, "rope_type": "yarn", "factor": 2.0}, WINDOWED: WINDOW_ROPE},
    "whole": {FULL: FULL_ROPE, WINDOWED: WINDOW_ROPE},
}
BESIDE: dict[str, dict[str, Any]] = {
    "alone": {},
    "all full": {"layer_types": [FULL] * 4, "num_kv_shared_layers": 0},
    "beside rope_scaling": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "beside an empty rope_scaling": {"rope_scaling": {}},
}
BY_TYPE = [name for name, row in SUPPORTED.items() if row.ropes == "by_type"]


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("architecture", BY_TYPE)
def test_blocks_by_layer_type_that_are_taken_run_as_the_class_completes_them(
    architecture: str, block: str, beside: str
) -> None:
    settings = make_settings(architecture) | copy.deepcopy(BESIDE[beside] | {"rope_parameters": BLOCKS[block]})
    try:
        shape = parse_shape(settings, "config.json")
    except UserError as refusal:
        assert "rope" in refusal.where + refusal.what
        assert (block, beside) != ("whole", "alone") and (block, beside) != ("none", "alone")
        return
    model = make_model(architecture, bare=drop_nulls(settings))
    check_positions(model, shape.positions, head_dim=shape.rotary_dims, context_tokens=shape.context_tokens)


LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 6, "long_factor": [2.0] * 6}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {  # class, entries (``...`` for a missing one), reason
    "heads of the default width": (
        "HeliumForCausalLM",
        {"head_dim": ...},
        "then makes heads of 128, and it divides a width of 64",
    ),
    "a null width, which is none": ("HeliumForCausalLM", {"head_dim": None}, 'add "head_dim": 16'),
    "a token that pads": ("Phi3ForCausalLM", {"pad_token_id": ...}, "then takes 32000, and the model has 97 tokens"),
    "key heads": ("NemotronForCausalLM", {"num_key_value_heads": ...}, "has no default for it"),
    "a length inside the block alone": (
        "Phi3ForCausalLM",
        {
            "max_position_embeddings": 1 << 15,
            "rope_theta": ...,
            "rope_parameters": {**LONGROPE, "original_max_position_embeddings": 8192},
        },
        "inside is 8192, the default of phi3, which wins, is 4096",
    ),
    "a period in letters": (
        "Exaone4ForCausalLM",
        {"layer_types": ..., "sliding_window_pattern": "LLLG"},
        "lists its layers by a number, or by layer_types",
    ),
    "dynamic without its factor": (
        "HunYuanDenseV1ForCausalLM",
        {"rope_theta": ..., "rope_scaling": {"type": "dynamic", "alpha": 100.0}},
        "it has no factor, without which the class fails",
    ),
}


def change(architecture: str, changes: dict[str, Any]) -> dict[str, Any]:
    changed = make_settings(architecture) | copy.deepcopy(changes)
    return {key: value for key, value in changed.items() if value is not ...}


@pytest.mark.parametrize("case", REFUSED)
def test_a_default_that_does_not_fit_the_file_is_refused_and_the_class_fails_or_runs_another_model(case: str) -> None:
    architecture, changes, told = REFUSED[case]
    settings = change(architecture, changes)
    with pytest.raises(UserError) as refused:
        parse_shape(settings, "config.json")
    assert told in str(refused.value)
    try:
        with torch.device("meta"):
            model = class_of(architecture)(read(settings))
    except (TypeError, KeyError, AssertionError):
        return
    widths = model.config.to_dict()
    assert widths.get("head_dim") == 128 or widths["rope_parameters"]["original_max_position_embeddings"] == 4096


def test_a_longrope_without_its_length_counts_from_the_default_of_the_class() -> None:
    block = {"max_position_embeddings": 8192, "rope_theta": ..., "rope_parameters": LONGROPE}
    settings = change("Phi3ForCausalLM", block)
    for given in (settings, settings | {"original_max_position_embeddings": None}):
        shape = parse_shape(given, "config.json")
        assert shape == parse_shape(settings | {"original_max_position_embeddings": 4096}, "config.json")
        live = read(copy.deepcopy(given)).rope_parameters  # the class writes into it
        assert getattr(shape.positions[0].rope, "original_tokens", None) == live["original_max_position_embeddings"]
