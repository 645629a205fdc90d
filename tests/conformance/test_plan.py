"""Part 9: the plan's FLOPs and saved bytes are those that torch counts, with the experts that a token uses."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conformance.count_kept import choose_sizes, count_bytes
from conformance.tiny_families import make_model, make_settings
from ropewalk.plan.flops import token_flops
from ropewalk.plan.memory import stored_block_bytes
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.read import parse_shape

TOKENS = 32


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_flops_are_those_that_torch_counts(architecture: str) -> None:
    model = make_model(architecture)
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(TOKENS)[None], use_cache=False)
    shape = parse_shape(make_settings(architecture), "config.json")
    flops = token_flops(shape, TOKENS)
    square = (
        2 * (shape.query_width + shape.output_width) * TOKENS * shape.layers
    )  # the eager attention computes all pairs
    assert TOKENS * (flops.linear + square) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_saved_bytes_are_those_that_torch_counts(architecture: str, dtype: torch.dtype) -> None:
    sizes = choose_sizes(architecture)
    shape = parse_shape(make_settings(architecture) | sizes, "config.json")
    planned = shape.layers * stored_block_bytes(shape, 1, element_bytes=dtype.itemsize)
    assert planned == pytest.approx(count_bytes(architecture, dtype, sizes), rel=0.02)
