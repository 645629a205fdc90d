"""A state with dropout and uneven shards, trained for a few steps on any ranks: what checkpoints are tried on."""

import dataclasses
from typing import Any

import torch
from torch import nn

from ropewalk.checkpoint.state import TrainState
from ropewalk.core.digest import digest_bytes
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.mesh import make_mesh

WIDTH = 5  # not a multiple of 2 or 3 ranks: shards are uneven, and some are empty


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 1)
        self.blocks = [self.inner]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.inner(torch.dropout(x, 0.2, train=True)))).sum()


def make_state(ranks: int, replicas: int = 1) -> TrainState:
    torch.manual_seed(0)
    model = Small()
    shard_model(model, make_mesh(ranks, 1, replicas=replicas), precision="float32")
    torch.manual_seed(torch.distributed.get_rank())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    return TrainState(model, optimizer, stage=0, inputs={"data": "d1"})


def train(state: TrainState, steps: int) -> TrainState:
    for _ in range(steps):
        state.model(torch.randn(3, WIDTH)).backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        step = state.step + 1
        state = dataclasses.replace(state, step=step, updates=state.updates + 1, cursor=step * 7, sums=(0.1 * step,))
    return state


def describe(state: TrainState) -> dict[str, Any]:
    """Digest of every whole tensor, on every rank, and the counters."""
    tensors = {}
    for name, parameter in state.model.named_parameters():
        moments = state.optimizer.state[parameter]
        for key, value in {"weight": parameter, **moments}.items():
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            tensors[f"{key}/{name}"] = digest_bytes(whole.detach().numpy().tobytes())
    return {**tensors, **state.figures()}
