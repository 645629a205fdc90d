"""Decay on matrices only, a factor for the embedding, and AdamW's arithmetic against its definition in float64."""

import json

import pytest
import torch
from torch import nn

from ropewalk.checkpoint.state import TrainState, count_update, name_tensors, set_updates
from ropewalk.train.optimizer import list_frozen, make_optimizer, set_learning_rate


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(5, 3)
        self.model.norm = nn.RMSNorm(3)
        self.head = nn.Linear(3, 5)


def test_groups() -> None:
    model = Tiny()
    optimizer = make_optimizer(model, weight_decay=0.1, betas=(0.9, 0.95), embedding_lr=4.0)
    set_learning_rate(optimizer, 0.5)
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[id(parameter)] = group["lr"], group["weight_decay"], group["betas"]
    expected = {
        "model.embed_tokens.weight": (2.0, 0.1),
        "model.norm.weight": (0.5, 0),
        "head.weight": (0.5, 0.1),
        "head.bias": (0.5, 0),
    }
    for name, parameter in model.named_parameters():
        assert found[id(parameter)] == (*expected[name], (0.9, 0.95)), name


def test_two_steps_are_adamw() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False)
    weight = model.weight.detach().double().clone()
    first = second = torch.zeros_like(weight)
    optimizer = make_optimizer(model, weight_decay=0.1, betas=(0.9, 0.95))
    for step in (1, 2):
        gradient = torch.randn(3, 4)
        model.weight.grad = gradient.clone()
        set_learning_rate(optimizer, 0.01 * step)
        optimizer.step()
        exact = gradient.double()
        first, second = 0.9 * first + 0.1 * exact, 0.95 * second + 0.05 * exact**2
        moved = (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
        weight = weight - 0.01 * step * (0.1 * weight + moved)
    torch.testing.assert_close(model.weight.double(), weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("resumed_at", [(), (2,), (3,), (5,), (1, 2, 3, 4, 5)])
def test_weights_that_are_frozen_first_are_those_of_torch_s_adamw(resumed_at: tuple[int, ...], eight_bit: bool) -> None:
    """Three updates train the head alone; torch is given no gradient of the rest. Runs are resumed in between."""
    torch.manual_seed(1)
    gradients = [[torch.randn_like(each) for each in Tiny().parameters()] for _ in range(6)]

    def begin() -> tuple[Tiny, torch.optim.AdamW]:
        torch.manual_seed(0)
        model = Tiny()
        begins = ["head.weight", "head.bias"]
        return model, make_optimizer(
            model, weight_decay=0.1, betas=(0.9, 0.99), begins_with=begins, eight_bit=eight_bit
        )

    model, optimizer = begin()
    state = TrainState(model, optimizer, stage=0)
    for step, own in enumerate(gradients):
        if step in resumed_at:
            held = {name: tensor.clone() for name, tensor in name_tensors(state).items()}
            model, optimizer = begin()
            figures = json.loads(json.dumps(state.figures()))
            state = TrainState(model, optimizer, stage=0).with_figures(figures)
            for name, tensor in name_tensors(state).items():
                tensor.copy_(held[name])
            set_updates(state)
        still = list_frozen(optimizer) if step < 3 else []
        for parameter, gradient in zip(model.parameters(), own, strict=True):
            parameter.grad = None if any(parameter is each for each in still) else gradient.clone()
        set_learning_rate(optimizer, 0.01 * (step + 1), frozen=step < 3)
        optimizer.step()
        state = count_update(state, still)

    torch.manual_seed(0)
    truth = Tiny().double()
    groups = [{"params": [each], "weight_decay": 0.1 if each.dim() > 1 else 0.0} for each in truth.parameters()]
    plain = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=False, foreach=False)
    for step, own in enumerate(gradients):
        for (name, parameter), gradient in zip(truth.named_parameters(), own, strict=True):
            parameter.grad = gradient.double() if step >= 3 or name.startswith("head") else None
        for group in plain.param_groups:
            group["lr"] = 0.01 * (step + 1)
        plain.step()
    for (name, parameter), exact in zip(model.named_parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(parameter.double(), exact, rtol=1e-5, atol=1e-6, msg=name)
    assert state.updates == 6 and state.missed == {"model.embed_tokens.weight": 3, "model.norm.weight": 3}
