"""A forward over a partition refuses what it cannot give, on every rank; without one the model stays as it was."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from ropewalk.core.error import UserError
from ropewalk.model.parallelize import parallelize
from ropewalk.parallel.launch import run_ranks

SHAPE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2}
ROW = torch.arange(3, 35)[None]


def make_qwen() -> PreTrainedModel:
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, num_experts=4, moe_intermediate_size=16))


def make_mixtral() -> PreTrainedModel:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4))


def ask(model: PreTrainedModel, kwargs: dict[str, Any]) -> str:
    try:
        model(**kwargs)
    except UserError as error:
        return error.why
    return ""


@pytest.mark.parametrize("make", [make_qwen, make_mixtral])
def test_router_losses_are_refused_on_every_rank(make: Any) -> None:
    """Each rank measured its own balance, and the sum over two ranks was twice the loss."""

    def on_rank() -> list[str]:
        model = make()
        plain = model(ROW, labels=ROW, output_router_logits=True, use_cache=False)
        share = parallelize(model, dist.group.WORLD)
        parallelize(model, dist.group.WORLD)  # twice is once
        assert len(model._forward_pre_hooks) == 1
        kwargs = share.cut(ROW, ROW)
        said = [ask(model, kwargs), ask(model, kwargs | {"output_router_logits": True})]
        model.config.output_router_logits = True
        said += [ask(model, kwargs), ask(model, kwargs | {"output_router_logits": False})]
        with pytest.warns(UserWarning, match="trains without the arguments of cut"):
            whole = model(ROW, labels=ROW, use_cache=False)
        torch.testing.assert_close(whole.loss, plain.loss)
        return said

    for fine, by_argument, by_config, taken_back in run_ranks(on_rank, 2, threads=1):
        assert (fine, taken_back) == ("", "")
        assert by_argument == by_config and "balance of its experts" in by_config


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"output_attentions": True}, "never computed"),
        ({"use_cache": True}, "cache"),
        ({"attention_mask": torch.ones_like(ROW)}, "give the mask to cut"),
        ({"logits_to_keep": 1}, "last tokens"),
        ({"logits_to_keep": torch.tensor([0])}, "last tokens"),
        ({"position_ids": None}, "no position_ids"),
        ({"shift_labels": None}, "no shift_labels"),
        ({"num_items_in_batch": None}, "no num_items_in_batch"),
        ({"output_hidden_states": True}, ""),
        ({"return_dict": False}, ""),
    ],
    ids=str,
)
def test_what_a_rank_cannot_give_is_refused(given: dict[str, Any], words: str) -> None:
    model = make_qwen()
    said = ask(model, parallelize(model).cut(ROW, ROW) | given)
    assert (words in said) if words else not said


def test_a_mask_in_second_place_is_seen_too() -> None:
    model = make_qwen()
    kwargs = parallelize(model).cut(ROW, ROW)
    with pytest.raises(UserError, match="attention_mask"):
        model(kwargs.pop("input_ids"), torch.ones_like(ROW), **kwargs)


def test_a_batch_without_labels_has_a_loss_of_zero() -> None:
    model = make_qwen()
    loss = model(**parallelize(model).cut(ROW, torch.full_like(ROW, -100))).loss
    loss.backward()
    assert loss.item() == 0 and all(each.grad is None or not each.grad.any() for each in model.parameters())
