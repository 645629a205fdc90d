"""Some blocks are recomputed where layers have two mixers, or are one thing each: the same bits, and copies as planned.

Tiles are tried where layers are an MLP alone.
"""

from typing import Any

import numpy as np
import pytest
import torch

from conformance.tiny_families import CONTEXT_TOKENS, FULL, make_model, make_settings
from ropewalk.model.attention_interface import NAME
from ropewalk.model.latent_attention import exchange_latents
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.recurrent_layers import mix_documents
from ropewalk.model.tiled_mlp import tile_mlps
from ropewalk.parallel.host_copies import HostCopies, offload_blocks
from ropewalk.parallel.recompute import set_recompute
from ropewalk.partition import partition_tokens
from ropewalk.plan.block_memory import copied_bytes
from ropewalk.plan.savings import Savings
from ropewalk.shape.read import parse_shape

SINGLE = {"layers_block_type": ["linear_attention", "mlp", FULL, "mlp", "linear_attention"], "num_hidden_layers": 5}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "two mixers": ("FalconH1ForCausalLM", {}),
    "one thing each": ("NemotronHForCausalLM", SINGLE),
    "one thing each, with experts": ("NemotronHForCausalLM", {}),
    "latent": ("KimiLinearForCausalLM", {}),
}
TOKENS = CONTEXT_TOKENS


class CountedCopies(HostCopies):
    """Counts the bytes that go to the host."""

    copied = 0

    def keep(self, tensor: torch.Tensor) -> Any:
        self.copied += tensor.nbytes if self._current is not None else 0
        return super().keep(tensor)


def train_once(name: str, changes: dict[str, Any], savings: Savings) -> tuple[list[torch.Tensor], int]:
    """The gradients of a step, and the bytes that went to the host."""
    model = make_model(name, **changes)
    model.set_attn_implementation(NAME)
    exchange_latents(model, NAME)
    mix_documents(model)
    learner = ModelWithLoss(model).train()
    if savings.mlp_tile_tokens is not None:
        tile_mlps(model, savings.mlp_tile_tokens)
    count, copies = savings.count_again(len(learner.blocks)), CountedCopies(torch.device("cpu"))
    keep = copies.keep if savings.attention_on_host else None
    set_recompute(model, savings.recompute, keep=keep, spared=learner.blocks[count:])
    if savings.offload:
        offload_blocks(learner.blocks[:count], copies)
    tokens = torch.arange(TOKENS) % 96
    partition = partition_tokens(np.arange(TOKENS, dtype=np.int32)[None] // 12, ranks=1)
    loss = learner(tokens, tokens, tokens.roll(-1), torch.ones(TOKENS), partition=partition, context_group=None)[0]
    loss.backward()
    return [each.grad for each in learner.parameters() if each.grad is not None], copies.copied


@pytest.mark.parametrize("model", MODELS)
def test_any_number_of_blocks_gives_the_same_bits(model: str) -> None:
    name, changes = MODELS[model]
    shape = parse_shape(make_settings(name) | changes, "config.json")
    for tile in (None, 16) if shape.experts is None else (None,):
        plain, _ = train_once(name, changes, Savings(mlp_tile_tokens=tile))
        for blocks in (2, None):
            for way in (
                Savings("full", tile, recompute_blocks=blocks),
                Savings("full", tile, recompute_blocks=blocks, offload=True),
                Savings("save_attention", tile, recompute_blocks=blocks, offload=True, attention_on_host=True),
            ):
                found, copied = train_once(name, changes, way)
                assert len(found) == len(plain)
                assert all(torch.equal(mine, other) for mine, other in zip(found, plain, strict=True)), way
                assert copied == copied_bytes(shape, TOKENS, savings=way, element_bytes=4), way
