"""Three steps of AdamW on single documents: our forward and loss train a hybrid as plain transformers trains it."""

import numpy as np
import pytest
import torch

from conformance.tiny_families import make_model
from ropewalk.model.attention_interface import NAME
from ropewalk.model.latent_attention import exchange_latents
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.model.recurrent_layers import mix_documents
from ropewalk.partition import partition_tokens
from ropewalk.train.optimizer import make_optimizer

TOKENS = torch.from_numpy(np.random.default_rng(7).integers(0, 96, size=(3, 40)))
"""A document for each step."""


@pytest.mark.parametrize("architecture", ["OlmoHybridForCausalLM", "NemotronHForCausalLM", "KimiLinearForCausalLM"])
def test_three_steps_are_those_of_plain_transformers(architecture: str) -> None:
    ours, theirs, first = (make_model(architecture, dtype=torch.float64) for _ in range(3))
    ours.set_attn_implementation(NAME)
    exchange_latents(ours, NAME)
    mix_documents(ours)
    learner = ModelWithLoss(ours)
    steppers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in (ours, theirs)]
    partition = partition_tokens(np.zeros((1, TOKENS.shape[1]), np.int32), ranks=1)
    weights = torch.cat([torch.ones(TOKENS.shape[1] - 1), torch.zeros(1)]).double() / (TOKENS.shape[1] - 1)
    for tokens in TOKENS:
        places = torch.arange(len(tokens))
        loss, _, _ = learner(tokens, places, tokens.roll(-1), weights, partition=partition, context_group=None)
        expected = theirs(tokens[None], labels=tokens[None], use_cache=False).loss
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
        for each, stepper in zip((loss, expected), steppers, strict=True):
            stepper.zero_grad()
            each.backward()
            stepper.step()
    for (name, own), other, before in zip(
        ours.named_parameters(), theirs.parameters(), first.parameters(), strict=True
    ):
        moved = (other - before).norm()
        assert float((own - other).norm()) <= 1e-5 * float(moved) + 1e-9, name


def test_decays_of_a_recurrence_have_no_weight_decay() -> None:
    """Kimi Linear keeps one for each head in four dimensions."""
    model = make_model("KimiLinearForCausalLM")
    groups = make_optimizer(model, weight_decay=0.1, betas=(0.9, 0.95)).param_groups
    plain = {id(each) for group in groups if not group["weight_decay"] for each in group["params"]}
    free = {name for name, each in model.named_parameters() if id(each) in plain}
    assert {name.rpartition(".")[2] for name in free} == {"weight", "bias", "A_log", "dt_bias"}
    assert all("norm" in name for name in free if name.endswith(".weight"))
