"""Sharding changes where numbers lie, not what they are: sums of gradients, float32 masters, one AdamW step."""

import gc
import weakref
from collections import OrderedDict
from typing import Literal

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh


class Stack(nn.Module):
    """Two blocks and a root weight that is used outside any submodule, as a tied head is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))  # 5 does not divide by 2
        self.head = nn.Parameter(torch.randn(7, 5))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = rows.to(self.head.dtype)
        for block in self.blocks:
            hidden = block(hidden).tanh()
        return (hidden @ self.head.T).float().square().sum()


def rows_of(rank: int) -> torch.Tensor:
    return torch.randn(3 + rank, 5, generator=torch.Generator().manual_seed(rank))


def step_alone(ranks: int) -> dict[str, torch.Tensor]:
    model = Stack()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sum(model(rows_of(rank)) for rank in range(ranks)).backward()
    optimizer.step()
    named = model.named_parameters()
    return {key: value for name, p in named for key, value in ((name, p.detach()), (f"{name} slope", p.grad))}


def step_sharded(
    precision: Literal["float32", "bfloat16"], whole_bytes: int = 0, replicas: int = 1
) -> dict[str, torch.Tensor]:
    model = Stack()
    mesh = make_mesh(torch.distributed.get_world_size(), 1, replicas=replicas)
    shard_model(model, mesh, precision=precision, whole_bytes=whole_bytes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(rows_of(mesh.rank)).backward()
    optimizer.step()
    found = {}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor) and parameter.dtype == parameter.grad.dtype == torch.float32
        found |= {name: parameter.full_tensor().detach(), f"{name} slope": parameter.grad.full_tensor()}
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_gradients_are_sums_over_ranks(ranks: int) -> None:
    expected = step_alone(ranks)
    for found in run_ranks(step_sharded, ranks, "float32"):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_replicas_hold_the_same_and_sum_over_all() -> None:
    expected = step_alone(4)
    found = run_ranks(step_sharded, 4, "float32", 0, 2, threads=1)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[0][name], tensor, rtol=1e-5, atol=1e-6, msg=name)
        assert all(torch.equal(each[name], found[0][name]) for each in found)


def test_a_small_model_is_one_unit_and_gives_the_same() -> None:
    by_block, at_once = run_ranks(step_sharded, 2, "float32"), run_ranks(step_sharded, 2, "float32", 1 << 20)
    for name, tensor in by_block[0].items():
        assert torch.equal(at_once[0][name], tensor), name


def test_bfloat16_rounds_products_only() -> None:
    expected = step_alone(2)
    (found, again) = run_ranks(step_sharded, 2, "bfloat16")
    for name, tensor in expected.items():
        assert torch.equal(found[name], again[name])
        if name.endswith("slope"):
            assert 1e-4 < (found[name] - tensor).norm() / tensor.norm() < 3e-2, name


class Chain(nn.Module):
    """Four blocks in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(OrderedDict(inner=nn.Linear(8, 8))) for _ in range(4))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            values = block(values)
        return values


def test_weights_are_gathered_one_block_ahead() -> None:
    """As a block runs forward or backward, the messages of the next one are on their way; and no further one's."""

    def watch() -> list[tuple[str, int, list[bool]]]:
        model = Chain()
        shard_model(model, make_mesh(2, 1), precision="float32", whole_bytes=0)
        seen: list[tuple[str, int, list[bool]]] = []

        def note(way: str, index: int) -> None:
            groups = [block._get_fsdp_state()._fsdp_param_group for block in model.blocks]  # type: ignore[operator]
            seen.append((way, index, [each._all_gather_result is not None or each.is_unsharded for each in groups]))

        for index, block in enumerate(model.blocks):
            block.inner.register_forward_pre_hook(lambda *_, index=index: note("forward", index))  # type: ignore[union-attr]
            block.inner.register_full_backward_pre_hook(lambda *_, index=index: note("backward", index))  # type: ignore[union-attr]
        model(torch.ones(3, 8, requires_grad=True)).sum().backward()
        return seen

    for seen in run_ranks(watch, 2, threads=1):
        assert [(way, index) for way, index, _ in seen] == [
            *(("forward", index) for index in range(4)),
            *(("backward", index) for index in (3, 2, 1, 0)),
        ]
        for way, index, gathered in seen:
            ahead = index + 1 if way == "forward" else index - 1
            expected = {index, ahead} & set(range(4))
            assert {place for place, there in enumerate(gathered) if there} >= expected, (way, index, gathered)
            assert len([there for there in gathered if there]) <= 2, (way, index, gathered)


def test_a_model_that_is_no_longer_used_is_freed_before_the_next_is_sharded() -> None:
    """Such as the base, once it is measured, and under torchrun the model of the stage before."""

    def look() -> list[bool]:
        gc.collect()
        gc.disable()  # else a collection of Python's own may hide what is tested
        model = Stack()
        mesh = make_mesh(2, 1)
        shard_model(model, mesh, precision="float32", whole_bytes=0)
        with torch.no_grad():
            model(rows_of(mesh.rank))
        shard = weakref.ref(model.head)
        del model
        held = [shard() is not None]
        shard_model(Stack(), mesh, precision="float32", whole_bytes=0)
        return [*held, shard() is not None]

    assert run_ranks(look, 2, threads=1) == [[True, False]] * 2
