"""The place of a rank in a mesh, without a process group: for what a rank computes alone, such as its batches."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from ropewalk.parallel.mesh import Mesh

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place(Mesh):
    """Where a rank stands."""

    line: Any = field(default_factory=lambda: SimpleNamespace(device_type="cpu"))
    context_group: Any = None
    data_ranks: int = 1
    context_ranks: int = 1
    sharding: Any = None
    device: torch.device = CPU
    data_rank: int = 0
    context_rank: int = 0
