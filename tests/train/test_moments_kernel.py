"""The kernel of bitsandbytes moves weights and moments as our step does, keeps the format, and is refused otherwise.

A few lines of torch stand for its operator on a GPU: its arguments in their order, blocks of 256 consecutive numbers,
and the nearest of the numbers of a table that it is given. (On a CPU the package's own rounds small second moments up:
the trial refuses it.)
"""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from ropewalk.checkpoint.eight_bit import decode_moments, list_numbers
from ropewalk.core.error import UserError
from ropewalk.recipe.parallel import Parallel
from ropewalk.train import moments_kernel
from ropewalk.train.eight_bit import EightBitAdamW, move_in_parts
from ropewalk.train.moments_kernel import find_trial_fault, has_its_blocks, load_moments_kernel, move_matrix
from ropewalk.train.optimizer import make_optimizer, set_learning_rate

CPU = torch.device("cpu")
SCHEMA = (
    "(str name, Tensor g, Tensor(a!) p, Tensor(b!) state1, Tensor(c!)? state2, float beta1, float beta2, float beta3, "
    "float alpha, float eps, int step, float lr, Tensor qmap1, Tensor? qmap2, Tensor(d!) absmax1, Tensor(e!)? absmax2, "
    "float weight_decay, float gnorm_scale, bool skip_zeros=False) -> ()"
)
DECAY = {"used": True}


def update(name: str, g: Any, p: Any, state1: Any, state2: Any, beta1: float, beta2: float, beta3: float, alpha: float,
           eps: float, step: int, lr: float, qmap1: Any, qmap2: Any, absmax1: Any, absmax2: Any, decay: float,
           gnorm_scale: float, skip_zeros: bool = False) -> None:  # fmt: skip
    assert name == "adam" and gnorm_scale == 1 and not skip_zeros
    moments = []
    for state, table, largest, beta, gained in (
        (state1, qmap1, absmax1, beta1, g), (state2, qmap2, absmax2, beta2, g * g),
    ):  # fmt: skip
        held = table[state.long()].view(-1, 256) * largest[:, None]
        moments.append((beta * held + (1 - beta) * gained.reshape(-1, 256)).view(g.shape))
    p.mul_(1 - lr * decay * DECAY["used"])
    root = (moments[1] / (1 - beta2**step)).sqrt()
    p.sub_(lr * moments[0] / (1 - beta1**step) / (root + eps))
    for moment, state, table, largest in (
        (moments[0], state1, qmap1, absmax1), (moments[1], state2, qmap2, absmax2),
    ):  # fmt: skip
        blocks = moment.reshape(-1, 256)
        largest.copy_(blocks.abs().amax(1))
        unit = blocks / largest[:, None].clamp(min=1e-38)
        state.copy_((unit[..., None] - table).abs().argmin(-1).to(torch.uint8).view(state.shape))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What stands for bitsandbytes on a CPU."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setattr("ropewalk.recipe.parallel.find_spec", lambda _: object())
    monkeypatch.setattr(moments_kernel, "find_version", lambda _: "0.0")
    library = torch.library.Library("bitsandbytes", "FRAGMENT")
    library.define(f"optimizer_update_8bit_blockwise{SCHEMA}")
    library.impl("optimizer_update_8bit_blockwise", update, "CPU")
    yield
    DECAY["used"] = True
    library._destroy()


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 300, bias=False))


def train(kernel: Any, steps: int) -> tuple[nn.Module, Any]:
    model = make_model()
    optimizer = make_optimizer(model, weight_decay=0.1, betas=(0.9, 0.95), eight_bit=True, moments_kernel=kernel)
    set_learning_rate(optimizer, 0.01)
    for step in range(steps):
        rows = torch.randn(8, 256, generator=torch.Generator().manual_seed(step))
        model(rows).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_weights_and_moments_are_those_of_our_own_step(installed: None) -> None:
    for steps, most in ((1, 1e-5), (4, 0.002)):
        (ours, our_states), (theirs, their_states) = train("torch", steps), train("bitsandbytes", steps)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert float((one - other).detach().abs().mean()) <= most, "a step is 0.01"
        states = [optimizer.state[model[0].weight] for model, optimizer in ((ours, our_states), (theirs, their_states))]
        assert [float(state["step"]) for state in states] == [steps] * 2
        for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
            read = [decode_moments(state[name], state[f"{name}_scale"], signed=signed) for state in states]
            assert torch.nn.functional.cosine_similarity(*(each.flatten() for each in read), dim=0) > 0.99
        assert states[1]["exp_avg_sq"].min() >= 1, "no second moment is rounded to zero"
    last, own = (model[2].weight for model in (theirs, ours))
    assert not has_its_blocks(last) and last.shape == own.shape, "rows of 64 keep our step"


def test_each_matrix_has_its_own_count_of_updates(installed: None) -> None:
    """The first one has no gradient in the first two steps, so the last step is its own first."""
    weights = {}
    for kernel in ("torch", "bitsandbytes"):
        first, second = (nn.Parameter(torch.ones(64, 256)) for _ in range(2))
        groups = [{"params": [first, second], "weight_decay": 0.0, "lr": 0.01}]
        optimizer = EightBitAdamW(groups, betas=(0.9, 0.95), kernel=kernel)  # type: ignore[arg-type]
        for step in range(3):
            first.grad = torch.ones_like(first) if step == 2 else None
            second.grad = torch.ones_like(second)
            optimizer.step()
        assert [float(optimizer.state[each]["step"]) for each in (first, second)] == [1, 3]
        weights[kernel] = torch.cat([first, second]).detach()
    torch.testing.assert_close(weights["bitsandbytes"], weights["torch"], rtol=0, atol=1e-4)


def test_it_is_tried_first_and_refused_where_it_computes_something_else(installed: None) -> None:
    assert load_moments_kernel("torch", CPU, ours=move_in_parts) is None
    assert load_moments_kernel("bitsandbytes", CPU, ours=move_in_parts) is move_matrix
    assert find_trial_fault(move_matrix, move_in_parts, CPU) == ""

    def shift(weight: torch.Tensor, *rest: Any) -> None:
        move_in_parts(weight, *rest)
        weight += 1e-3

    def swap(weight: torch.Tensor, gradient: torch.Tensor, state: Any, group: Any) -> None:
        move_in_parts(weight, gradient, state, group)
        state["exp_avg"] += 8

    assert "update 1 differs by" in find_trial_fault(shift, move_in_parts, CPU)
    assert "bytes of exp_avg differ by" in find_trial_fault(swap, move_in_parts, CPU)


def test_another_operator_than_the_one_that_we_know_is_refused(
    installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DECAY, "used", False)
    with pytest.raises(UserError, match="cannot move the moments") as raised:
        train("bitsandbytes", 1)
    assert "update 1 differs by" in raised.value.why and "moments_kernel=torch" in raised.value.fix
    monkeypatch.setattr(moments_kernel, "list_numbers", lambda signed, device: list_numbers(signed, device).double())
    with pytest.raises(UserError, match="cannot move the moments"):
        train("bitsandbytes", 1)


def test_an_operator_that_refuses_its_arguments_is_told(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes raises ValueError for a name or a type that its kernel lacks."""

    def refuse(*_: Any) -> None:
        raise ValueError("Unsupported gradient dtype\nand more")

    monkeypatch.setattr(moments_kernel, "find_trial_fault", refuse)
    with pytest.raises(UserError, match="cannot move the moments") as raised:
        train("bitsandbytes", 1)
    assert raised.value.why == "it cannot run here: Unsupported gradient dtype"


def test_a_missing_package_and_moments_that_are_not_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.recipe.parallel.find_spec", lambda _: None)
    with pytest.raises(UserError, match="needs the package bitsandbytes") as raised:
        train("bitsandbytes", 1)
    assert "pip install" in raised.value.fix
    with pytest.raises(ValueError, match="needs states: 8bit"):
        Parallel(moments_kernel="bitsandbytes")
    assert Parallel(moments_kernel="bitsandbytes", states="8bit").moments_kernel == "bitsandbytes"
