"""Part 9: the plan's FLOPs and saved bytes are those that torch counts, with the experts that a token uses."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conformance.count_kept import choose_sizes, count_bytes
from conformance.tiny_families import make_model, make_settings
from layer_bytes import stored_block_bytes
from ropewalk.partition import partition_tokens
from ropewalk.plan.flops import token_flops
from ropewalk.plan.saved_tensors import stored_layer_bytes
from ropewalk.recurrence import scan
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.read import parse_shape
from ropewalk.shape.recurrences import RECURRENCES
from ropewalk.shape.recurrent import RecurrentLayers

TOKENS = 32
ELEMENTWISE = dict.fromkeys(
    ("BambaForCausalLM", "GraniteMoeHybridForCausalLM", "NemotronHForCausalLM"), "mamba2_chunk_scan"
)
ELEMENTWISE |= {"KimiLinearForCausalLM": "chunk_kimi_delta_attention"}
"""Recurrences that transformers computes without products of matrices, which is all that torch counts."""
_SKIPPED: Mapping[str, Callable[..., Any]] = {
    "mamba2_chunk_scan": lambda values, *args, **kwargs: values,
    "chunk_kimi_delta_attention": lambda query, key, value, **kwargs: (value, None),
}

BLOCKS = {"MiniMaxForCausalLM": {"block_size": 64}, "FalconH1ForCausalLM": {"mamba_chunk_size": 64}}
"""Blocks as long as the chunks of ours."""


def test_flops_of_a_recurrence_are_those_of_its_products() -> None:
    heads, key_dim, value_dim, tokens = 2, 8, 12, 128
    partition = partition_tokens(np.zeros((1, tokens), np.int32), ranks=1)
    query, key = torch.rand(2, tokens, heads, key_dim)
    value, beta = torch.rand(tokens, heads, value_dim), torch.rand(tokens, heads)
    for kind in ("ssd", "simple_decay", "gated_delta"):
        layers = RecurrentLayers(kind, "", (0,), (), 0, 0, 0, heads, key_dim, value_dim)
        decay = -beta[0] if kind == "simple_decay" else -beta
        with FlopCounterMode(display=False) as counter:
            scan(
                query,
                key,
                value,
                decay,
                beta if kind == "gated_delta" else None,
                kind=kind,
                partition=partition,
                group=None,
            )
        # the plan leaves the triangular system out, as torch's counter does; here its inverse is found, and multiplied
        solved = 2 * heads * RECURRENCES[kind].chunk_tokens * (key_dim + value_dim) if kind == "gated_delta" else 0
        assert tokens * (layers.scan_flops + solved) == counter.get_total_flops(), kind


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_flops_are_those_that_torch_counts(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recurrent = SUPPORTED[architecture].recurrent is not None
    tokens = 2 * TOKENS if recurrent else TOKENS  # a whole chunk of a recurrence
    model = make_model(architecture, **BLOCKS.get(architecture, {}))
    shape, skipped = parse_shape(make_settings(architecture), "config.json"), 0.0
    if (name := ELEMENTWISE.get(architecture)) and shape.recurrent is not None:
        monkeypatch.setattr(sys.modules[type(model).__module__], name, _SKIPPED[name])
        skipped = len(shape.recurrent.layers) * shape.recurrent.scan_flops
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(tokens)[None], use_cache=False)
    flops = token_flops(shape, tokens)
    assert sum(flops.block_attention) == pytest.approx(flops.attention)
    assert sum(flops.block_linear) + 2 * shape.vocabulary * shape.width == pytest.approx(flops.linear)
    square = (
        2 * (shape.query_width + shape.output_width) * tokens * shape.attention_layers
    )  # the eager attention computes all pairs
    assert tokens * (flops.linear - skipped + square) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_saved_bytes_are_those_that_torch_counts(architecture: str, dtype: torch.dtype) -> None:
    sizes = choose_sizes(architecture)
    shape = parse_shape(make_settings(architecture) | sizes, "config.json")
    planned = shape.layers * stored_block_bytes(shape, 1, element_bytes=dtype.itemsize)
    counted = count_bytes(architecture, dtype, sizes)
    assert planned == pytest.approx(sum(counted), rel=0.02)
    if len(shape.alike) > 1:
        layers = [stored_layer_bytes(shape, layer, 1, element_bytes=dtype.itemsize) for layer in range(shape.layers)]
        assert layers == pytest.approx(counted, rel=0.02)
