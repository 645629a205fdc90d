"""Shards that are read from the files hold what a whole load holds, to the bit, on any number of ranks."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from llama_kin import LLAMA_KIN
from ropewalk.core.error import UserError
from ropewalk.model.adapter import attach_adapter
from ropewalk.model.load import build_model, load_model
from ropewalk.model.load_shards import load_shards
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.weights import SINGLE, Dtype
from ropewalk.parallel.fsdp import reshard_model, shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.partition import partition_tokens
from ropewalk.recipe.lora import Lora

Save = Callable[..., Path]
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", LLAMA_KIN)
def test_a_model_built_without_memory_becomes_the_one_that_transformers_loads(
    save_tiny: Save, architecture: str, dtype: Dtype
) -> None:
    folder = save_tiny(architecture, shard_bytes=10_000, tie_word_embeddings=architecture < "N")
    whole, built = load_model(folder, dtype=dtype), build_model(folder, dtype=dtype)
    assert {each.device.type for each in built.parameters()} == {"meta"}
    load_shards(built, folder, device=CPU)
    for theirs, ours in (
        (whole.state_dict(), built.state_dict()),
        (dict(whole.named_buffers()), dict(built.named_buffers())),  # frequencies, Gemma's scale: in no file
    ):
        assert theirs and list(theirs) == list(ours)
        assert all(torch.equal(ours[name], each) and ours[name].dtype == each.dtype for name, each in theirs.items())
    assert built.config.to_dict() == whole.config.to_dict() and not built.training
    tokens = torch.arange(20)[None]
    assert torch.equal(built(tokens).logits, whole(tokens).logits)


@pytest.mark.parametrize(("ranks", "replicas", "tied"), [(1, 1, True), (2, 1, True), (3, 1, False), (4, 2, True)])
def test_shards_hold_the_weights_to_the_bit(save_tiny: Save, ranks: int, replicas: int, tied: bool) -> None:
    folder = save_tiny("Gemma3ForCausalLM", shard_bytes=10_000, tie_word_embeddings=tied)  # 97 rows: uneven shards

    def gather() -> dict[str, Any]:
        learner, mesh = ModelWithLoss(build_model(folder)), make_mesh(ranks, 1, replicas=replicas)
        shard_model(learner, mesh, precision="float32", whole_bytes=0)
        load_shards(learner, folder, device=CPU)
        causal: Any = learner.causal
        assert (causal.lm_head.weight is causal.model.embed_tokens.weight) == tied
        named = {name: each for name, each in learner.named_parameters() if isinstance(each, DTensor)}
        found = {name.removeprefix("causal."): each.full_tensor().detach() for name, each in named.items()}
        tokens, partition = torch.arange(20), partition_tokens(np.zeros((1, 20), np.int32), ranks=1)
        learner(tokens, tokens, tokens, torch.ones(20), partition=partition)  # torch pads uneven shards now
        reshard_model(learner)
        again = {name.removeprefix("causal."): each.full_tensor().detach() for name, each in named.items()}
        assert all(torch.equal(again[name], found[name]) for name in found)
        return found

    whole = dict(load_model(folder).named_parameters())
    for found in run_ranks(gather, ranks, threads=1):
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[name], each) for name, each in whole.items())


def test_adapters_keep_the_first_values_that_peft_draws(save_tiny: Save) -> None:
    folder, lora = save_tiny(), Lora(rank=4, also_train=("norms",))
    whole, built = load_model(folder), build_model(folder)
    for model in (whole, built):
        attach_adapter(model, lora, seed=3)
    load_shards(built, folder, device=CPU)
    theirs, ours = dict(whole.named_parameters()), dict(built.named_parameters())
    assert theirs.keys() == ours.keys() and any("lora_A" in name for name in ours)
    for name, each in theirs.items():
        assert torch.equal(each, ours[name]) and each.requires_grad == ours[name].requires_grad, name


def spoil(folder: Path, name: str, row: int) -> None:
    tensors = load_file(folder / SINGLE)
    tensors[name][row, :3] = float("nan")
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


@pytest.mark.parametrize("row", [3, 90])
def test_every_rank_refuses_what_one_of_them_reads(save_tiny: Save, row: int) -> None:
    folder, name = save_tiny(), "model.embed_tokens.weight"
    spoil(folder, name, row)

    def read() -> str:
        learner, mesh = ModelWithLoss(build_model(folder)), make_mesh(2, 1)
        shard_model(learner, mesh, precision="float32", whole_bytes=0)
        with pytest.raises(UserError, match=name) as caught:
            load_shards(learner, folder, device=CPU)
        return caught.value.why

    assert run_ranks(read, 2, threads=1) == ["3 of 3104 values are NaN or infinite"] * 2


def test_a_number_that_the_type_cannot_hold_is_refused(save_tiny: Save) -> None:
    folder = save_tiny()
    tensors = load_file(folder / SINGLE)
    tensors["model.norm.weight"][5] = 1e6
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    read = partial(load_shards, folder=folder, device=CPU)
    read(build_model(folder, dtype="bfloat16"))
    with pytest.raises(UserError, match=r"model\.norm\.weight is not finite"):
        read(build_model(folder, dtype="float16"))
