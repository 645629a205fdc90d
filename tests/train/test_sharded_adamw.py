"""AdamW on a rank's own shards against torch's AdamW on DTensors: the same weights and moments, to the last bit."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ropewalk.checkpoint.state import MOMENTS
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.parallel.rank_shards import map_shard, own_shard
from ropewalk.train.sharded_adamw import ShardedAdamW

SHAPES = [(5, 3), (1, 4), (6,)]
"""Over two ranks: unequal shards, an empty one, a vector."""


def make_parameters() -> list[nn.Parameter]:
    mesh, generator = make_mesh(2, 2).sharding, torch.Generator().manual_seed(1)
    return [
        nn.Parameter(distribute_tensor(torch.randn(shape, generator=generator), mesh, [Shard(0)])) for shape in SHAPES
    ]


def move(optimizer: torch.optim.AdamW) -> list[Tensor]:
    """Two steps, one without a gradient for the vector; this rank's shards of weights, moments and counts."""
    (group,), generator = optimizer.param_groups, torch.Generator().manual_seed(2)
    for step in range(2):
        group["lr"] = 0.1 / (1 + step)
        for parameter in group["params"]:
            gradient = torch.randn(parameter.shape, generator=generator)
            is_still = step == 0 and parameter.dim() == 1
            parameter.grad = (
                None if is_still else distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            )
        optimizer.step()
    states = [optimizer.state[each][name] for each in group["params"] for name in (*MOMENTS, "step")]
    assert all(isinstance(optimizer.state[each]["exp_avg"], DTensor) for each in group["params"])
    return [own_shard(each).detach().clone() for each in (*group["params"], *states)]


def test_two_steps_are_those_of_torch_s_adamw_on_dtensors() -> None:
    def on_rank() -> tuple[list[Tensor], list[Tensor]]:
        settings = {"weight_decay": 0.1, "betas": (0.9, 0.95)}
        theirs = torch.optim.AdamW(make_parameters(), lr=0.0, fused=True, **settings)  # type: ignore[arg-type]
        ours = ShardedAdamW([{"params": make_parameters(), "weight_decay": 0.1}], betas=(0.9, 0.95))
        return move(ours), move(theirs)

    for ours, theirs in run_ranks(on_rank, 2, threads=1):
        assert len(ours) == 12 and all(map(torch.equal, ours, theirs))


def test_a_mapped_shard_is_what_torch_makes_of_the_dtensor() -> None:
    def on_rank() -> None:
        for parameter in make_parameters():
            for make, settings in (
                (torch.zeros_like, {"dtype": torch.uint8}),
                (torch.clone, {}),
                (torch.detach, {}),
            ):
                ours, theirs = map_shard(parameter, make, **settings), make(parameter.detach(), **settings)
                assert isinstance(ours, DTensor) and not ours.requires_grad
                assert (ours.shape, ours.dtype, ours.placements) == (theirs.shape, theirs.dtype, theirs.placements)
                assert ours.stride() == theirs.stride() and torch.equal(own_shard(ours), own_shard(theirs))
        plain = torch.ones(3, requires_grad=True)
        assert torch.equal(map_shard(plain, torch.zeros_like), torch.zeros(3))

    run_ranks(on_rank, 2, threads=1)
