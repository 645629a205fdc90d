"""Some blocks are recomputed: gradients to the bit, runs as counted, and memory as planned, on a CPU."""

import gc
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ropewalk.model.adapter import attach_adapter
from ropewalk.model.attention_interface import NAME
from ropewalk.model.compiled import compile_in_place
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.tiled_mlp import tile_mlps
from ropewalk.parallel.host_copies import HostCopies, offload_blocks
from ropewalk.parallel.peak import measure_peak_bytes
from ropewalk.parallel.recompute import set_recompute
from ropewalk.partition import partition_tokens
from ropewalk.plan.block_memory import BlockMemory
from ropewalk.plan.memory import estimate_memory
from ropewalk.plan.savings import Savings
from ropewalk.recipe.lora import Lora
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape

LAYERS, VOCABULARY, CHUNK_TOKENS = 6, 64, 64
SHAPE = ModelShape("LlamaForCausalLM", 64, 4, 2, 16, 160, VOCABULARY, True, 1 << 20, plain_layers(LAYERS, 1e4))
CPU = torch.device("cpu")


class Trainee:
    """A small Llama whose first blocks are recomputed; one step gives its gradients."""

    def __init__(self, savings: Savings, *, tokens: int, lora: bool = False, compiles: bool = False) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=SHAPE.width,
            intermediate_size=SHAPE.mlp_width,
            num_hidden_layers=LAYERS,
            num_attention_heads=SHAPE.heads,
            num_key_value_heads=SHAPE.kv_heads,
            head_dim=SHAPE.head_dim,
            tie_word_embeddings=True,
            attn_implementation=NAME,
        )
        model = LlamaForCausalLM(config)
        if lora:
            attach_adapter(model, Lora(), seed=0)
        self.tokens = tokens
        self.learner = ModelWithLoss(model, chunk_tokens=CHUNK_TOKENS).train()
        self.prepare(savings, compiles=compiles)
        self.runs = [0] * LAYERS
        for index, block in enumerate(self.learner.blocks):
            block.get_submodule("self_attn").register_forward_pre_hook(lambda *_, index=index: self._count(index))

    def prepare(self, savings: Savings, *, compiles: bool) -> None:
        if savings.mlp_tile_tokens is not None:
            tile_mlps(self.learner.causal, savings.mlp_tile_tokens)
        count = savings.count_again(LAYERS)
        copies = HostCopies(CPU) if savings.offload else None
        keep = copies.keep if copies is not None and savings.attention_on_host else None
        set_recompute(self.learner.causal, savings.recompute, keep=keep, spared=self.learner.blocks[count:])
        if compiles:
            compile_in_place(self.learner.blocks, backend="eager")
        if copies is not None:
            offload_blocks(self.learner.blocks[:count], copies)

    def _count(self, index: int) -> None:
        self.runs[index] += 1

    def forward(self) -> torch.Tensor:
        tokens = torch.arange(self.tokens) % VOCABULARY
        partition = partition_tokens(np.arange(self.tokens, dtype=np.int32)[None] // 64, ranks=1)
        loss: torch.Tensor = self.learner(tokens, tokens, tokens, torch.ones(self.tokens), partition=partition)[0]
        return loss

    def step(self) -> list[torch.Tensor]:
        self.forward().backward()
        return [each.grad for each in self.learner.parameters() if each.grad is not None]


HOST = Savings("save_attention", offload=True, attention_on_host=True)
WAYS = {
    "full": (Savings("full"), {}),
    "attention kept": (Savings("save_attention"), {}),
    "tiles": (Savings("full", mlp_tile_tokens=32), {}),
    "on the host": (HOST, {}),
    "inputs on the host": (Savings("full", offload=True), {}),
    "adapters": (Savings("save_attention"), {"lora": True}),
    "compiled": (Savings("save_attention"), {"compiles": True}),
}


@pytest.mark.parametrize("name", WAYS)
def test_any_number_of_blocks_gives_the_same_bits_and_runs_as_often_as_it_says(name: str) -> None:
    way, settings = WAYS[name]
    plain = Trainee(Savings(mlp_tile_tokens=way.mlp_tile_tokens), tokens=128, **settings)
    expected = plain.step()
    assert plain.runs == [1] * LAYERS
    for count in (2, LAYERS - 1, None):
        trainee = Trainee(replace(way, recompute_blocks=count), tokens=128, **settings)
        found = trainee.step()
        again = LAYERS if count is None else count
        assert trainee.runs == [2] * again + [1] * (LAYERS - again), "the first ones run again"
        assert len(found) == len(expected)
        assert all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True)), count


def measure(savings: Savings, *, backward: bool = True, again: Sequence[int] = ()) -> int:
    """The most bytes of tensors in a step of 2,048 tokens, or in its forward; ``again`` recomputes other blocks."""
    trainee = Trainee(savings, tokens=2048)
    if again:
        for index, block in enumerate(trainee.learner.blocks):
            cast(Any, block).gradient_checkpointing = index in again
    kept: list[object] = []
    gc.collect()  # else what an earlier model leaves is freed while this one is measured
    return measure_peak_bytes(trainee.step if backward else lambda: kept.append(trainee.forward()), CPU)


@pytest.mark.parametrize("way", [Savings("full"), Savings("save_attention"), Savings("full", mlp_tile_tokens=256)])
def test_the_bytes_that_a_block_more_frees_are_planned_within_two_hundredths(way: Savings) -> None:
    """Of the forward, which ends with all that blocks keep."""
    peaks = [measure(replace(way, recompute_blocks=count), backward=False) for count in (1, 3, 5)]
    kept = []
    for count in (1, 3, 5):
        blocks = BlockMemory(SHAPE, 2048, replace(way, recompute_blocks=count), element_bytes=4)
        kept.append(blocks.kept_by_again() + blocks.kept_by_rest())
    for (more, less), (planned, fewer) in zip(pairwise(peaks), pairwise(kept), strict=True):
        assert more - less == pytest.approx(planned - fewer, rel=0.02)


@pytest.mark.parametrize("way", [Savings("full"), Savings("save_attention")])
def test_the_peak_of_a_step_is_as_planned(way: Savings) -> None:
    for count in (1, 3, 5):
        each = replace(way, recompute_blocks=count)
        sizes = {"element_bytes": 4, "loss_chunk_tokens": CHUNK_TOKENS}
        plan = estimate_memory(SHAPE, 2048, ranks=1, savings=each, **sizes)  # type: ignore[arg-type]
        # No optimizer ran, and the weights are there before.
        assert measure(each) == pytest.approx(plan.peak_bytes - plan.states - plan.gathered, rel=0.1), count


def test_the_first_blocks_need_least() -> None:
    """What the last blocks keep is free before the first second run; if they run again, all is there beside it."""
    first, spread, last = (
        measure(Savings("full", recompute_blocks=3), again=again) for again in ((0, 1, 2), (0, 2, 4), (3, 4, 5))
    )
    assert first <= spread and first < 0.85 * last
