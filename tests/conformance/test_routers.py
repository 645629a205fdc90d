"""Part 10: a row's facts about routers are those of the class: how experts are scored, and the bias of their choice."""

import pytest
import torch
from torch import nn

from conformance.tiny_families import make_model
from ropewalk.model.architectures import blocks_of, mlp_of
from ropewalk.model.expert_balance import find_routers
from ropewalk.model.expert_files import CHOICE_BIAS
from ropewalk.shape.expert_families import MIXTURES
from ropewalk.shape.families import SUPPORTED


def check_router(architecture: str) -> None:
    keys, model = SUPPORTED[architecture].experts, make_model(architecture)
    assert keys is not None
    said: list[tuple[torch.Tensor, ...]] = []
    router = find_routers(model)[-1]
    router.module.register_forward_hook(lambda module, args, output: said.append(output))
    with torch.no_grad():
        model(torch.arange(3, 20)[None], use_cache=False)
    logits, weights, chosen = said[0]
    scores = logits.sigmoid() if keys.scores == "sigmoid" else logits.softmax(1)
    ours = (logits if keys.scores == "given" else scores).gather(1, chosen)
    if keys.beside:
        ours = ours * router.module.get_parameter("per_expert_scale")[chosen]
    # Classes norm the weights of the chosen experts, or scale them; their ratios stay.
    torch.testing.assert_close(weights / weights.sum(1, keepdim=True), ours / ours.sum(1, keepdim=True))
    assert (router.biased is not None) == (keys.balance_bias != "none")
    if router.biased is not None:
        kind = type(getattr(router.biased, CHOICE_BIAS)) is nn.Parameter
        assert kind == (keys.balance_bias == "parameter")
    block = blocks_of(model)[router.layer]
    mixture = block if keys.beside else mlp_of(model, block)
    (weight,) = (each for each in mixture.get_submodule(keys.router).parameters() if each.dim() == 2 and len(each) > 1)
    assert weight.shape == (logits.shape[1], model.config.hidden_size)


@pytest.mark.parametrize("architecture", [*MIXTURES, "Gemma4ForCausalLM"])
def test_routers_are_those_of_the_class(architecture: str) -> None:
    check_router(architecture)
