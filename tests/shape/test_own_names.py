"""Kimi Linear's file: its own names, and layers that a mapping names from 1 on, give the shape of the usual keys."""

from typing import Any

import pytest

from conformance.checks import build_empty
from conformance.tiny_families import make_settings
from ropewalk.core.error import UserError
from ropewalk.shape.read import parse_shape

NAME = "KimiLinearForCausalLM"
NESTED = {
    "linear_attn_config": {
        **{
            "head_dim": 8,
            "num_heads": 6,
            "short_conv_kernel_size": 3,
            "kda_layers": [1, 3],
            "full_attn_layers": [2, 4],
        },
    },
    "head_dim": 72,  # of the published file; the class has its own
}


def as_published() -> dict[str, Any]:
    """The tiny model in the keys of the publisher."""
    flat = ("linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim", "layer_types", "max_position_embeddings")
    return {key: value for key, value in make_settings(NAME).items() if key not in flat} | NESTED


def test_the_publisher_s_keys_give_the_shape_of_the_usual_ones() -> None:
    shape = parse_shape(as_published(), "config.json")
    assert shape == parse_shape(make_settings(NAME), "config.json")
    assert shape.parameters == sum(each.numel() for each in build_empty(as_published()).parameters())
    dense = as_published() | {"first_k_dense_replace": 3}
    found = parse_shape(dense, "config.json")
    assert found.mixtures == 1 and found.parameters == sum(each.numel() for each in build_empty(dense).parameters())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"max_position_embeddings": 64}, "one number for both"),
        ({"linear_attn_config": {**NESTED["linear_attn_config"], "kda_layers": [1]}}, "name 3 of 4 layers"),  # type: ignore[dict-item]
        ({"linear_attn_config": {**NESTED["linear_attn_config"], "kda_layers": [0, 2]}}, "must name each once"),  # type: ignore[dict-item]
        ({"linear_attn_config": [1]}, "must be a mapping"),
        ({"linear_attn_config": {**NESTED["linear_attn_config"], "kda_layers": 2}}, "a list of numbers of layers"),  # type: ignore[dict-item]
        ({"linear_attn_config": {**NESTED["linear_attn_config"], "kda_layers": [[1], 3]}}, "a list of numbers"),  # type: ignore[dict-item]
        ({"linear_attn_config": None}, "name 0 of 4 layers"),
    ],
)
def test_ambiguous_keys_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_shape(as_published() | changes, "config.json")
    assert why in refused.value.why
