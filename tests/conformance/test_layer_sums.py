"""What the plan counts for a model is the sum of what it counts for each of its layers, in every class."""

import pytest

from conformance.checks import build_empty
from conformance.tiny_families import make_settings
from ropewalk.model.architectures import attends, blocks_of, has_mlp, recurrent_of
from ropewalk.plan.block_memory import (
    BlockMemory,
    copied_bytes,
)
from ropewalk.plan.flops import token_flops
from ropewalk.plan.saved_tensors import kept_of, stored_layer_bytes
from ropewalk.plan.savings import Savings
from ropewalk.recipe.lora import Lora
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

TOKENS = 24
DENSE_SINGLE = {"layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp", "linear_attention", "mlp"]}
CASES = {name: make_settings(name) for name in SUPPORTED} | {
    "layers of one thing, dense": make_settings("NemotronHForCausalLM") | DENSE_SINGLE | {"num_hidden_layers": 6},
}


@pytest.fixture(params=CASES)
def settings(request: pytest.FixtureRequest) -> dict[str, object]:
    return CASES[request.param]


def test_layers_are_those_of_the_class(settings: dict[str, object]) -> None:
    """What a layer has, and its parameters, read off the live block."""
    model, shape = build_empty(settings), parse_shape(settings, "config.json")
    for layer, block in enumerate(blocks_of(model)):
        assert shape.mixers[layer] == (attends(model, block), recurrent_of(model, block) is not None)
        assert shape.has_mlp(layer) == has_mlp(model, block)
        assert shape.layer_parameters(layer) == sum(each.numel() for each in block.parameters())


@pytest.mark.parametrize("adapted", [False, True])
def test_flops_are_those_of_all_blocks_and_the_head(settings: dict[str, object], adapted: bool) -> None:
    shape = parse_shape(settings, "config.json")
    flops = token_flops(shape, 64, document_tokens=[40, 7, 11], lora=Lora() if adapted else None)
    head = 2 * shape.vocabulary * shape.width
    assert sum(flops.block_linear) + head == pytest.approx(flops.linear)
    assert sum(flops.block_attention) == pytest.approx(flops.attention)
    assert [each > 0 for each in flops.block_attention] == [mixers.attends for mixers in shape.mixers]
    full, none = flops.hardware("full"), flops.hardware("none")
    steps = [flops.hardware("full", blocks) for blocks in range(1, shape.layers + 1)]
    assert steps == sorted(steps) and none < steps[0] and steps[-1] == full


def test_bytes_are_those_of_all_blocks(settings: dict[str, object]) -> None:
    """Layers that are alike are asked once; here each is asked, for any number of recomputed blocks."""
    shape = parse_shape(settings, "config.json")
    every = range(shape.layers)
    assert sorted(layer for group in shape.alike for layer in group) == list(every)
    stored = [stored_layer_bytes(shape, layer, TOKENS) for layer in every]
    assert BlockMemory(shape, TOKENS, Savings()).kept_by_rest() == pytest.approx(sum(stored))
    results = [_result_bytes(shape, layer) for layer in every]
    for blocks in range(1, shape.layers + 1):
        assert shape.attending[blocks] == sum(each > 0 for each in results[:blocks])
        recurrent = shape.recurrent.layers if shape.recurrent else ()
        assert shape.recurring[blocks] == len(set(recurrent) & set(range(blocks)))
        for way in ("full", "save_attention"):
            found = BlockMemory(shape, TOKENS, Savings(way, recompute_blocks=blocks))  # type: ignore[arg-type]
            kept = results if way == "save_attention" else [0.0] * shape.layers
            inputs = blocks * TOKENS * shape.width * 2
            assert found.kept_by_rest() == pytest.approx(sum(stored[blocks:]))
            assert found.kept_by_again() == pytest.approx(inputs + sum(kept[:blocks]))
            made = [whole - part for whole, part in zip(stored[:blocks], kept, strict=False)]
            assert found.second_run() == pytest.approx(max(made))


def test_what_goes_to_the_host_is_that_of_layers_that_have_it(settings: dict[str, object]) -> None:
    """Inputs of all recomputed blocks but the last, and of those with attention its results."""
    shape = parse_shape(settings, "config.json")
    way = Savings("save_attention", offload=True, attention_on_host=True)
    result = TOKENS * (shape.query_width * 2 + shape.heads * 4)
    expected = [TOKENS * shape.width * 2 + result * mixers.attends for mixers in shape.mixers]
    assert copied_bytes(shape, TOKENS, savings=way) == sum(expected[:-1])


def test_tiles_free_the_inside_of_layers_with_an_mlp_alone(settings: dict[str, object]) -> None:
    shape = parse_shape(settings, "config.json")
    if shape.experts is not None:
        return  # is never cut into tiles
    whole, tiled = (BlockMemory(shape, TOKENS, way) for way in (Savings(), Savings(mlp_tile_tokens=8)))
    inside = min(4, kept_of(shape).mlp[0]) * 2 * TOKENS * shape.mlp_width
    freed = [whole.saved(layer) - tiled.saved(layer) for layer in range(shape.layers)]
    assert freed == pytest.approx(
        [inside * shape.mlp_factor(layer) * shape.has_mlp(layer) for layer in range(shape.layers)]
    )
    assert sum(each > 0 for each in freed) == shape.dense_mlps
    if shape.single:  # in the mean over MLPs, not over layers
        assert whole.moving() == TOKENS * shape.mlp_width * 2


def _result_bytes(shape: ModelShape, layer: int) -> float:
    width = shape.heads * shape.heads_of(layer)[1]
    return shape.mixers[layer].attends * TOKENS * (width * 2 + shape.heads * 4)
