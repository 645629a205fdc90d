"""Loss and every gradient of packed rows, on one rank and on two, against plain transformers, text by text."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from llama_kin import LLAMA_KIN
from loaded_compiler import load_compiler
from ropewalk.core.record import Batch
from ropewalk.model.attention_interface import NAME
from ropewalk.model.compiled import compile_in_place, compiles_once
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.tiled_mlp import tile_mlps
from ropewalk.parallel.collective import sum_over_ranks
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.host_copies import HostCopies, offload_blocks
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.parallel.recompute import set_recompute
from ropewalk.partition import local_shard, partition_tokens
from tiny_hybrid import make_hybrid

VOCABULARY, CONTEXT = 97, 40
LENGTHS = ((17, 16), (40,))  # documents of each row; the first row ends in padding
Gradients = dict[str, torch.Tensor]
Make = Callable[..., PreTrainedModel]
Way = tuple[int, str, dict[str, Any]]
"""Context ranks, what is recomputed, and further settings of ``train_once``."""


def packed_batch() -> Batch:
    generator = np.random.default_rng(0)
    document = np.full((len(LENGTHS), CONTEXT), -1, np.int32)
    positions = np.zeros_like(document)
    for row, lengths in enumerate(LENGTHS):
        starts = np.cumsum([0, *lengths])
        for index, (start, stop) in enumerate(pairwise(starts)):
            document[row, start:stop] = index
            positions[row, start:stop] = np.arange(stop - start)
    tokens, labels = (generator.integers(VOCABULARY, size=document.shape, dtype=np.int32) for _ in range(2))
    weights = generator.random(document.shape, np.float32) * (document >= 0) * (generator.random(document.shape) < 0.8)
    return Batch(tokens, labels, weights.astype(np.float32), positions, document, np.maximum(document, -1))


def plain_truth(make: Make) -> tuple[float, Gradients]:
    """Each document alone through transformers' own SDPA; sums of weights x nll, and their gradients."""
    model, batch, total = make(), packed_batch(), 0.0
    for row, lengths in enumerate(LENGTHS):
        for index in range(len(lengths)):
            mine = np.flatnonzero(batch.document[row] == index)
            tokens, labels, weights = (
                torch.from_numpy(field[row, mine]) for field in (batch.tokens, batch.labels, batch.weights)
            )
            logits = model(tokens[None].long(), use_cache=False).logits[0]
            loss = (cross_entropy(logits, labels.long(), reduction="none") * weights).sum()
            loss.backward()
            total += loss.item()
    return total, {name: parameter.grad for name, parameter in model.named_parameters()}


def train_once(
    make: Make,
    context: int,
    precision: Any = "float32",
    recompute: Any = "none",
    *,
    passes: int = 1,
    whole_bytes: int = 0,
    tile_tokens: int | None = None,
    host: bool = False,
    backend: str | None = None,
    again: int | None = None,
) -> tuple[float, Gradients]:
    """The same on this rank of data x context, in whole: called by run_ranks."""
    learner = ModelWithLoss(make(attn_implementation=NAME), chunk_tokens=13).train()
    mesh = make_mesh(torch.distributed.get_world_size(), context)
    if tile_tokens is not None:
        if backend is not None:
            compile_in_place((block.get_submodule("mlp") for block in learner.blocks), backend=backend)
        tile_mlps(learner.causal, tile_tokens)
    copies = HostCopies(torch.device("cpu")) if host else None
    again = len(learner.blocks) if again is None else again
    keep = copies.keep if copies and recompute == "save_attention" else None
    set_recompute(learner.causal, recompute, keep=keep, spared=learner.blocks[again:])
    if backend is not None:
        compile_in_place(learner.blocks, backend=backend)
    if copies is not None:
        offload_blocks(learner.blocks[:again], copies)
    shard_model(learner, mesh, precision=precision, whole_bytes=whole_bytes, states_on_host=host)
    batch = packed_batch()
    rows = slice(mesh.data_rank, None, mesh.data_ranks)
    partition = partition_tokens(batch.document[rows], ranks=context)
    fields = (batch.tokens, batch.positions, batch.labels, batch.weights)
    local = [torch.from_numpy(local_shard(partition, mesh.context_rank, field[rows])) for field in fields]
    for _ in range(passes):
        loss, nll, correct = learner(*local, partition=partition, context_group=mesh.context_group)
        loss.backward()
    assert loss.dtype == nll.dtype == torch.float32 and correct.dtype == torch.bool
    torch.testing.assert_close((nll * local[3]).sum(), loss.detach())
    gradients = {}
    for name, parameter in learner.causal.named_parameters():
        assert isinstance(parameter.grad, DTensor) and parameter.dtype == parameter.grad.dtype == torch.float32
        gradients[name] = parameter.grad.full_tensor() / passes
    return sum_over_ranks(loss.detach().double()).item(), gradients


def train_ways(make: Make, ways: Sequence[Way]) -> list[tuple[float, Gradients]]:
    """One after another, which costs half of a start of ranks for each."""
    return [train_once(make, context, "float32", recompute, **more) for context, recompute, more in ways]


def assert_same(found: tuple[float, Gradients], expected: tuple[float, Gradients], tolerance: float) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= tolerance * gradient.norm(), name


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", LLAMA_KIN)
def test_loss_and_gradients_equal_plain_transformers(make_tiny: Make, architecture: str, tied: bool) -> None:
    make = partial(make_tiny, architecture, tie_word_embeddings=tied)
    expected = plain_truth(make)
    for ranks, context in ((1, 1), (2, 2)):
        for found in run_ranks(train_once, ranks, make, context):
            assert_same(found, expected, 1e-5)


def test_data_ranks_recompute_accumulation_and_units_change_nothing(make_tiny: Make) -> None:
    make = partial(make_tiny, "Qwen3ForCausalLM", tie_word_embeddings=True)
    expected = plain_truth(make)
    ways: list[Way] = [
        (1, "none", {}),
        (2, "full", {}),
        (2, "none", {"passes": 2}),
        (2, "full", {"whole_bytes": 1 << 20}),
    ]
    for rank in run_ranks(train_ways, 2, make, ways):
        for found in rank:
            assert_same(found, expected, 1e-5)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM"])
def test_what_saves_memory_changes_no_gradient(make_tiny: Make, architecture: str) -> None:
    make = partial(make_tiny, architecture, tie_word_embeddings=True)
    expected = plain_truth(make)
    ways: list[Way] = [
        (2, "save_attention", {}),
        (1, "none", {"tile_tokens": 7}),
        (2, "save_attention", {"tile_tokens": 5, "passes": 2}),
        (1, "full", {"tile_tokens": 1000, "host": True}),
        (2, "full", {"tile_tokens": 16, "whole_bytes": 1 << 20, "host": True}),
        (2, "save_attention", {"tile_tokens": 16, "host": True}),
    ]
    for rank in run_ranks(train_ways, 2, make, ways):
        for found in rank:
            assert_same(found, expected, 1e-5)


@pytest.mark.skipif(not compiles_once(), reason="this torch builds a program for each pack")
@pytest.mark.parametrize(
    ("architecture", "ranks", "recompute", "more"),
    [
        ("LlamaForCausalLM", 1, "none", {"whole_bytes": 1 << 20}),
        ("Olmo3ForCausalLM", 2, "save_attention", {"tile_tokens": 16, "passes": 2}),
        ("Gemma3ForCausalLM", 2, "full", {"host": True}),
    ],
)
def test_compiled_blocks_change_no_gradient(
    make_tiny: Make, architecture: str, ranks: int, recompute: str, more: dict[str, Any]
) -> None:
    """As torch traces forward and backward; the C++ that it would write of these graphs is test_compiled's."""
    load_compiler()
    make = partial(make_tiny, architecture, tie_word_embeddings=True)
    once = partial(train_once, backend="aot_eager", **more)
    for found in run_ranks(once, ranks, make, ranks, "float32", recompute):
        assert_same(found, plain_truth(make), 1e-5)


def make_recurrent(attn_implementation: str) -> PreTrainedModel:
    model = make_hybrid()
    model.set_attn_implementation(attn_implementation)
    return model


@pytest.mark.parametrize("recurrent", [False, True])
def test_one_recomputed_block_in_units_of_two_ranks_gives_the_same_bits(make_tiny: Make, recurrent: bool) -> None:
    """Sharded by FSDP2, a unit a block, over two context ranks; also with recurrent layers."""
    make = make_recurrent if recurrent else partial(make_tiny, "LlamaForCausalLM")
    ways: list[Way] = [(2, "none", {}), (2, "full", {"again": 1}), (2, "save_attention", {"again": 1})]
    for plain, *others in run_ranks(train_ways, 2, make, ways):
        for mine in others:
            assert mine[0] == plain[0]
            assert all(torch.equal(mine[1][name], gradient) for name, gradient in plain[1].items())


def count_kernels(make: Make, recompute: str, tile_tokens: int | None = None) -> Counter[str]:
    """How often a step calls attention's kernel and the MLP's activation."""
    learner = ModelWithLoss(make(attn_implementation=NAME), chunk_tokens=13).train()
    if tile_tokens is not None:
        tile_mlps(learner.causal, tile_tokens)
    set_recompute(learner.causal, recompute)  # type: ignore[arg-type]
    batch = packed_batch()
    partition = partition_tokens(batch.document, ranks=1)
    fields = (batch.tokens, batch.positions, batch.labels, batch.weights)
    local = [torch.from_numpy(local_shard(partition, 0, field)) for field in fields]
    with torch.profiler.profile() as profile:
        learner(*local, partition=partition)[0].backward()
    return Counter(event.name for event in profile.events() or ())


def test_attention_runs_once_and_a_tiled_mlp_twice(make_tiny: Make) -> None:
    make = partial(make_tiny, "LlamaForCausalLM", tie_word_embeddings=True)
    kernel, activation = "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::silu"
    plain = count_kernels(make, "none")
    assert plain[kernel] and plain[activation] == 2
    saved, full = count_kernels(make, "save_attention"), count_kernels(make, "full")
    assert saved[kernel] == plain[kernel] and full[kernel] == 2 * plain[kernel]
    assert saved[f"{kernel}_backward"] == full[f"{kernel}_backward"] == plain[f"{kernel}_backward"]
    assert saved[activation] == full[activation] == 2 * plain[activation]
    tiles = -(-packed_batch().tokens.size // 30)
    assert tiles == 3, "the last tile is a shorter one"
    for policy in ("none", "save_attention", "full"):
        tiled = count_kernels(make, policy, tile_tokens=30)
        assert tiled[activation] == 2 * tiles * plain[activation], f"{policy}: forward once, backward once"


def test_bfloat16_keeps_float32_masters_and_stays_close(make_tiny: Make) -> None:
    make = partial(make_tiny, "LlamaForCausalLM")
    load_compiler()
    expected = plain_truth(make)
    for backend, recompute in ((None, "full"), ("aot_eager", "none")):
        for found in run_ranks(partial(train_once, backend=backend), 2, make, 2, "bfloat16", recompute):
            assert_same(found, expected, 0.05)


def test_a_plain_learner_needs_no_ranks(make_tiny: Make) -> None:
    learner = ModelWithLoss(make_tiny("LlamaForCausalLM", attn_implementation=NAME))
    batch = packed_batch()
    partition = partition_tokens(batch.document, ranks=1)
    fields = (batch.tokens, batch.positions, batch.labels, batch.weights)
    with torch.no_grad():
        loss, nll, _ = learner(*(torch.from_numpy(field.reshape(-1)) for field in fields), partition=partition)
    assert loss.item() == pytest.approx(plain_truth(partial(make_tiny, "LlamaForCausalLM"))[0], rel=1e-6)
    assert not nll[torch.from_numpy(batch.weights.reshape(-1)) == 0].any()
