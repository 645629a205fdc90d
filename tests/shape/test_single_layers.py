"""Layers that are one thing each: the ways in which a file of Nemotron-H names them, and what is refused."""

from typing import Any

import pytest

from conformance.checks import build_empty
from conformance.tiny_families import FULL, make_settings
from ropewalk.core.error import UserError
from ropewalk.plan.forecast import forecast
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Unchanged
from ropewalk.shape.change_layers import describe_change
from ropewalk.shape.read import parse_shape

NAME, PATTERN = "NemotronHForCausalLM", "M*-E"


def name_layers(**keys: Any) -> dict[str, Any]:
    settings = {key: value for key, value in make_settings(NAME).items() if key != "layers_block_type"}
    return settings | keys


def test_letters_and_older_words_are_the_same_layers() -> None:
    shape = parse_shape(make_settings(NAME), "config.json")
    assert (shape.attention_layers, shape.dense_mlps, shape.mixtures, shape.lone_mlps) == (1, 1, 1, 2)
    for keys in ({"hybrid_override_pattern": PATTERN}, {"layers_block_type": ["mamba", "attention", "mlp", "moe"]}):
        assert parse_shape(name_layers(**keys), "config.json") == shape
    told = describe_change(shape, shape.positions)
    assert told == ["0: ssd, no positions", "1: no RoPE, as before", "2-3: mlp, no positions"]


def test_a_pattern_is_refused_with_the_layers_without_attention() -> None:
    shape = parse_shape(make_settings(NAME), "config.json")
    with pytest.raises(UserError, match="whose layers all have attention") as refused:
        shape.stretch((LayerRule(window=8),), rope=Unchanged(), context_tokens=shape.context_tokens)
    assert "3 of 4 layers have none (mlp, ssd)" in refused.value.why


@pytest.mark.parametrize("kinds", [["linear_attention", FULL], ["linear_attention", "mlp"], [FULL]])
def test_a_kind_of_layer_may_be_missing(kinds: list[str]) -> None:
    settings = name_layers(layers_block_type=kinds, num_hidden_layers=len(kinds))
    shape = parse_shape(settings, "config.json")
    assert shape.parameters == sum(each.numel() for each in build_empty(settings).parameters())
    assert shape.attention_layers == kinds.count(FULL) and shape.dense_mlps == kinds.count("mlp")
    plan = forecast(shape, context_tokens=64, tokens=64)
    assert plan.flops.attention_share > 0 if FULL in kinds else plan.flops.attention == 0
    assert 0 < plan.step_seconds < 1


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({}, "the default of the class is another model's"),
        ({"hybrid_override_pattern": "M*-X"}, "must name each layer"),
        ({"hybrid_override_pattern": "M*-"}, "names 3 layers"),
        ({"layers_block_type": ["mlp"] * 4, "hybrid_override_pattern": PATTERN}, "names other layers"),
        ({"layers_block_type": "M*-E"}, "must name each layer"),
        ({"layers_block_type": [["mlp"]] * 4}, "must name each layer"),
        ({"layers_block_type": ["mlp"] * 4, "hybrid_override_pattern": 4}, "names other layers"),
    ],
)
def test_layers_that_are_unclear_are_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_shape(name_layers(**keys), "config.json")
    assert why in refused.value.why
