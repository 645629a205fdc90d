"""Parts 5 to 7: packed documents are each alone, two context ranks are one, losses and gradients are transformers'."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed import get_rank, get_world_size, group

from conformance.tiny_families import make_model
from ropewalk.model.attention_interface import NAME
from ropewalk.model.latent_attention import exchange_latents
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.recurrent_layers import mix_documents
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import AnyPartition, local_shard, partition_tokens
from ropewalk.shape.families import SUPPORTED

LENGTHS = (1, 11, 7, 13)
TOKENS = torch.from_numpy(np.random.default_rng(5).integers(0, 96, size=sum(LENGTHS)))
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])
LABELS = TOKENS.roll(-1)
WEIGHTS = torch.cat([torch.cat([torch.ones(length - 1), torch.zeros(1)]) for length in LENGTHS]).double()


NEED_EAGER = ("Gemma2ForCausalLM", "GptOssForCausalLM")
"""Caps and sinks of scores: transformers' SDPA has neither, and its eager softmax is in float32."""


def cut(ranks: int, layout: str = "balanced") -> AnyPartition:
    documents = np.repeat(np.arange(len(LENGTHS), dtype=np.int32), LENGTHS)[None]
    return partition_tokens(documents, ranks=ranks, layout=layout)


def gradients_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix("causal."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def read_ours(architecture: str, ranks: int = 1, rank: int = 0) -> tuple[float, dict[str, Tensor]]:
    model = make_model(architecture, dtype=torch.float64)
    model.set_attn_implementation(NAME)
    exchange_latents(model, NAME)  # as load_model does
    mix_documents(model)
    learner, partition = ModelWithLoss(model), cut(ranks)
    own = [
        torch.from_numpy(np.ascontiguousarray(local_shard(partition, rank, each.numpy()[None])))
        for each in (TOKENS, POSITIONS, LABELS, WEIGHTS)
    ]
    whole = group.WORLD if ranks > 1 else None
    loss, _, _ = learner(*own, partition=partition, context_group=whole)
    loss.backward()
    return float(loss), gradients_of(learner)


def read_theirs(architecture: str) -> tuple[float, dict[str, Tensor]]:
    """Every document alone, by plain transformers in float64."""
    model = make_model(architecture, dtype=torch.float64)
    model.set_attn_implementation("eager" if architecture in NEED_EAGER else "sdpa")
    total, first = 0.0, 0
    for length in LENGTHS:
        logits = model(TOKENS[None, first : first + length], use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, TOKENS[first + 1 : first + length], reduction="sum")
        if length > 1:
            loss.backward()
        total, first = total + float(loss), first + length
    return total, gradients_of(model)


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Iterator[tuple[str, float]]:
    for name, gradient in theirs.items():
        norm = gradient.norm()
        yield name, float((ours[name] - gradient).norm() / norm) if norm > 1e-9 else float(ours[name].norm())


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_loss_and_gradients_are_those_of_documents_alone(architecture: str) -> None:
    check_loss(architecture)


def check_loss(architecture: str) -> None:
    loss, gradients = read_ours(architecture)
    expected, theirs = read_theirs(architecture)
    assert loss == pytest.approx(expected, rel=1e-7)
    worst = max(compare(gradients, theirs), key=lambda pair: pair[1])
    assert worst[1] < (3e-5 if architecture in NEED_EAGER else 1e-6), worst


def read_all(architectures: tuple[str, ...]) -> dict[str, tuple[float, dict[str, Tensor]]]:
    return {name: read_ours(name, ranks=get_world_size(), rank=get_rank()) for name in architectures}


@pytest.mark.parametrize("first", range(0, len(SUPPORTED), 6))
def test_two_context_ranks_are_one(first: int) -> None:
    check_ranks(tuple(SUPPORTED)[first : first + 6], 2)


def test_four_context_ranks_of_a_hybrid_are_one() -> None:
    """A class for each kind of recurrent layer, with inner segments."""
    names = ("Qwen3_5", "OlmoHybrid", "Lfm2", "Bamba", "MiniMax", "NemotronH", "FalconH1", "KimiLinear")
    check_ranks(tuple(f"{name}ForCausalLM" for name in names), 4)


def check_ranks(names: tuple[str, ...], ranks: int) -> None:
    parts = run_ranks(read_all, ranks, names)
    for name in names:
        loss, gradients = read_ours(name)
        assert sum(part[name][0] for part in parts) == pytest.approx(loss, rel=1e-7), name
        sums = {key: sum(part[name][1].get(key, torch.zeros(())) for part in parts) for key in gradients}
        worst = max(compare(sums, gradients), key=lambda pair: pair[1])
        assert worst[1] < 1e-6, (name, worst)
