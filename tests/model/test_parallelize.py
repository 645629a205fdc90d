"""A Hugging Face model in a plain loop, its rows cut over ranks: loss and gradients are those of transformers alone."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from llama_kin import LLAMA_KIN
from ropewalk.model.parallelize import parallelize
from ropewalk.parallel.launch import run_ranks

VOCABULARY, CONTEXT = 97, 48
LENGTHS = ((17, 1, 30), (48,), (9, 20))  # documents of each row; the last row ends in padding
WINDOWED = {
    "MistralForCausalLM": {"sliding_window": 6},
    "Qwen2ForCausalLM": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
}
Make = Callable[..., PreTrainedModel]
Found = tuple[float, dict[str, torch.Tensor]]


def make_batch() -> dict[str, torch.Tensor]:
    """Rows as a packing collator writes them, some labels left out."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(VOCABULARY, (len(LENGTHS), CONTEXT), generator=generator)
    labels = tokens.where(torch.rand(tokens.shape, generator=generator) < 0.8, -100)
    document = torch.full_like(tokens, -1)
    positions = torch.zeros_like(tokens)
    for row, lengths in enumerate(LENGTHS):
        for index, (start, stop) in enumerate(pairwise(np.cumsum([0, *lengths]).tolist())):
            document[row, start:stop] = 7 - index  # any numbers
            positions[row, start:stop] = torch.arange(stop - start)
    return {"input_ids": tokens, "labels": labels, "position_ids": positions, "document_ids": document}


def learn_plainly(make: Make) -> Found:
    """Each document alone through transformers' own SDPA and loss; the mean over all labels."""
    model, batch, losses = make().train(), make_batch(), []
    count = 0
    for row, lengths in enumerate(LENGTHS):
        for start, stop in pairwise(np.cumsum([0, *lengths]).tolist()):
            labels = batch["labels"][row : row + 1, start:stop]
            learnt = int((labels[:, 1:] != -100).sum())
            if learnt:
                tokens = batch["input_ids"][row : row + 1, start:stop]
                losses.append(model(tokens, labels=labels, num_items_in_batch=1, use_cache=False).loss)
                count += learnt
    loss = torch.stack(losses).sum() / count
    loss.backward()
    return loss.item(), gradients_of(model)


def learn_cut(make: Make, *, recompute: bool = False, shard: bool = False, **settings: Any) -> Found:
    """The same from this rank's share, added up: called by run_ranks."""
    model = make().train()
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("context",))
    share = parallelize(model, mesh, **settings)
    if shard:
        shard_as_advised(model, mesh)
    loss = model(**share.cut(**make_batch())).loss
    loss.backward()
    if not shard:
        share.sum_gradients(model.parameters())
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item(), gradients_of(model)


def shard_as_advised(model: Any, mesh: DeviceMesh) -> None:
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}


def assert_same(found: Found, expected: Found, where: str = "") -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5), where
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-9, (where, name)


def test_two_ranks_equal_plain_transformers(make_tiny: Make) -> None:
    makes = {name: partial(make_tiny, name, **WINDOWED.get(name, {})) for name in LLAMA_KIN}
    expected = {name: learn_plainly(make) for name, make in makes.items()}
    for rank in run_ranks(lambda: {name: learn_cut(make) for name, make in makes.items()}, 2):
        for name, found in rank.items():
            assert_same(found, expected[name], name)


@pytest.mark.parametrize(
    "settings",
    [{"recompute": True}, {"shard": True}, {"layout": "zigzag", "exchange": "ring"}, {"ulysses_degree": 2}],
    ids=str,
)
def test_recompute_sharding_layouts_and_heads_change_nothing(make_tiny: Make, settings: dict[str, Any]) -> None:
    make = partial(make_tiny, "LlamaForCausalLM")
    for found in run_ranks(partial(learn_cut, **settings), 2, make):
        assert_same(found, learn_plainly(make))


def test_a_text_turns_by_its_own_length_also_where_its_class_takes_the_batch_s(make_tiny: Make) -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}  # 48 tokens are beyond the 32 of its config
    make = partial(make_tiny, "LlamaForCausalLM", rope_parameters=dynamic)
    for found in run_ranks(learn_cut, 2, make):
        assert_same(found, learn_plainly(make))


def test_a_class_that_nobody_took_apart_is_tried_and_served(make_tiny: Make) -> None:
    config = make_tiny("LlamaForCausalLM").config.to_dict() | {"num_experts": 4, "num_experts_per_tok": 2}
    config |= {"moe_intermediate_size": 16}

    def make() -> PreTrainedModel:
        torch.manual_seed(0)
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**{name: config[name] for name in config if name != "model_type"}))

    for found in run_ranks(learn_cut, 2, make):
        assert_same(found, learn_plainly(make))


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss"])
def test_soft_caps_and_sinks_are_the_eager_ones(kind: str, make_tiny: Make) -> None:
    """Classes that we have not taken apart, with windows in every second layer; their sinks learn too."""
    config = make_tiny("LlamaForCausalLM").config.to_dict() | {"num_local_experts": 4, "num_experts_per_tok": 2}
    config |= {"sliding_window": 6, "attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 8, "head_dim": 8}
    config = {name: config[name] for name in config if name not in ("model_type", "layer_types", "architectures")}

    def make() -> PreTrainedModel:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config), attn_implementation="eager")

    expected = learn_plainly(make)
    if kind == "gpt_oss":
        assert all(gradient.norm() > 0 for name, gradient in expected[1].items() if name.endswith("sinks"))
    for found in run_ranks(learn_cut, 2, make):
        assert_same(found, expected)


def test_documents_are_told_in_several_ways(make_tiny: Make) -> None:
    """By ids, by positions that begin again, by a mask of padding; a row that says nothing is one document."""
    share, batch = parallelize(make_tiny("LlamaForCausalLM")), make_batch()
    del batch["document_ids"]
    mask = (torch.arange(CONTEXT) < 29)[None] | (torch.arange(3) < 2)[:, None]
    told = share.cut(**batch, attention_mask=mask.long())
    by_ids = share.cut(**make_batch())
    for name in ("input_ids", "position_ids", "labels", "shift_labels"):
        assert torch.equal(told[name], by_ids[name]), name
    assert told["num_items_in_batch"] == by_ids["num_items_in_batch"] == int((told["labels"] != -100).sum())
    assert np.array_equal(told["partition"].segments.begin, by_ids["partition"].segments.begin)

    left = share.cut(batch["input_ids"][:1], attention_mask=(torch.arange(CONTEXT) >= 40)[None])
    assert left["position_ids"][0, 40:].tolist() == list(range(8)) and "labels" not in left
    whole = share.cut(batch["input_ids"], position_ids=torch.arange(5, 5 + CONTEXT))
    assert whole["position_ids"].tolist() == [[*range(5, 5 + CONTEXT)] * 3]


def test_meshes_that_name_the_context(make_tiny: Make) -> None:
    def find() -> list[tuple[int, int]]:
        model = make_tiny("LlamaForCausalLM")
        grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "context"))
        shares = [parallelize(model, mesh) for mesh in (None, grid, grid["context"], dist.group.WORLD)]
        return [(share.rank, share.ranks) for share in shares]

    found = run_ranks(find, 4)
    assert found == [[(0, 1), (rank % 2, 2), (rank % 2, 2), (rank, 4)] for rank in range(4)]
