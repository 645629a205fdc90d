"""Decay on matrices only, a factor for the embedding, and AdamW's arithmetic against its definition in float64."""

import torch
from torch import nn

from ropewalk.train.optimizer import make_optimizer, set_learning_rate


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
