"""Part 9: the plan's FLOPs are those that torch counts, for the experts of a token and for all that is dense."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conformance.tiny_families import make_model, make_settings
from ropewalk.plan.flops import token_flops
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.read import parse_shape

TOKENS = 32


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_flops_are_those_that_torch_counts(architecture: str) -> None:
    recurrent = SUPPORTED[architecture].recurrent is not None
    tokens = 2 * TOKENS if recurrent else TOKENS  # a whole chunk of a recurrence
    model = make_model(architecture)
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(tokens)[None], use_cache=False)
    shape = parse_shape(make_settings(architecture), "config.json")
    flops = token_flops(shape, tokens)
    square = (
        2 * (shape.query_width + shape.output_width) * tokens * shape.attention_layers
    )  # the eager attention computes all pairs
    assert tokens * (flops.linear + square) == pytest.approx(counter.get_total_flops(), rel=0.02)
