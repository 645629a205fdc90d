"""Running sums in one order: what a recurrent layer needs on a GPU that must repeat its bits."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from packs import pack
from recurrence_cases import KINDS, Case, draw
from ropewalk.partition import partition_tokens
from ropewalk.recurrence import running_sum as module
from ropewalk.recurrence import scan
from ropewalk.recurrence.running_sum import running_sum

REFUSED = ("cumsum", "put_", "kthvalue", "bincount")
"""Operators on real numbers that torch refuses on a GPU under deterministic algorithms."""


class Refuse(TorchDispatchMode):
    """Answers as a GPU in that mode does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert name not in REFUSED or not args[0].is_floating_point(), f"{name} has no deterministic implementation"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_must_keep_order", lambda _: True)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("dim", [0, 2])
def test_sums_and_their_gradients_are_those_of_cumsum(length: int, dim: int, ordered: None) -> None:
    values = torch.randn(length, 3, length, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(length, 3, length, dtype=torch.float64)
    found, expected = running_sum(values, dim), values.cumsum(dim)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad((each * weights).sum(), values)[0] for each in (found, expected)]
    torch.testing.assert_close(*slopes)


def scan_once(kind: str) -> list[torch.Tensor]:
    """Output and gradients of a pack on one rank."""
    document = pack([70, 58], 128)
    inputs, grad = draw(Case(kind, document, ""))
    leaves = [each.requires_grad_() for each in inputs]
    out = scan(*leaves, kind=kind, partition=partition_tokens(document, ranks=1), group=None)
    return [out.detach(), *torch.autograd.grad((out * grad).sum(), leaves)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_deterministic_gpu_runs_no_cumsum(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scan_once(kind)
    with Refuse(), pytest.raises(AssertionError, match="cumsum has no"):
        scan_once(kind)
    monkeypatch.setattr(module, "_must_keep_order", lambda _: True)
    with Refuse():
        found = scan_once(kind)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_plain_torch_sums_elsewhere() -> None:
    """On a CPU, in any mode: its cumsum has one order."""
    assert not module._must_keep_order(torch.ones(2))
