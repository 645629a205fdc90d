"""The layout of the ranks: a grid of data x context for the sequences, and one line or several for the parameters.

Context ranks are neighbours. They exchange keys in every layer, so they should share a machine. Data ranks hold
different sequences. Parameters are sharded over *all* ranks, because for a parameter a context rank is just one more
data rank. With replicas (HSDP) the line is cut into equal groups of neighbours, and each group holds all parameters
once.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ropewalk.attention.group_timeout import read_timeout
from ropewalk.parallel.device import rank_device
from ropewalk.recipe.parallel import require_even


@dataclass(frozen=True)
class Mesh:
    """The place of this rank. ``line`` holds all ranks; ``context_group`` the ranks that share this rank's sequences.

    Parameters are sharded over ``sharding``, which is the line, or replicas x shards.
    """

    line: DeviceMesh
    context_group: dist.ProcessGroup
    data_ranks: int
    context_ranks: int
    sharding: DeviceMesh
    device: torch.device
    """The device of this rank, the same in every thread."""

    @property
    def ranks(self) -> int:
        return self.data_ranks * self.context_ranks

    @property
    def replicas(self) -> int:
        """The number of ranks that hold the same shard."""
        return self.sharding.size(0) if self.sharding.ndim == 2 else 1

    @property
    def rank(self) -> int:
        return self.line.get_rank()

    @property
    def data_rank(self) -> int:
        return self.rank // self.context_ranks

    @property
    def context_rank(self) -> int:
        return self.rank % self.context_ranks


_meshes: WeakKeyDictionary[dist.ProcessGroup, dict[tuple[int, int, int], Mesh]] = WeakKeyDictionary()


def make_mesh(ranks: int, context: int, *, replicas: int = 1) -> Mesh:
    """Return the mesh of ``ranks`` ranks with ``context`` ranks in each context-parallel group.

    It is made once: each group of NCCL keeps buffers on the device, and under torchrun all stages are one process.

    Every rank must call it, inside ``run_ranks``. Raises UserError where the context degree, or the number of
    ``replicas`` of the parameters, does not divide the number of ranks.
    """
    require_even(ranks, context=context, replicas=replicas)
    world = dist.group.WORLD
    assert world is not None and dist.get_world_size() == ranks, "run_ranks has checked the number"
    known = _meshes.setdefault(world, {})
    if (ranks, context, replicas) not in known:
        known[ranks, context, replicas] = _lay_out(ranks, context, replicas)
    return known[ranks, context, replicas]


def _lay_out(ranks: int, context: int, replicas: int) -> Mesh:
    device = rank_device()
    grid = init_device_mesh(device.type, (ranks // context, context), mesh_dim_names=("data", "context"))
    line = init_device_mesh(device.type, (ranks,), mesh_dim_names=("ranks",))
    sharding = line
    if replicas > 1:
        sharding = init_device_mesh(device.type, (replicas, ranks // replicas), mesh_dim_names=("replicas", "shards"))
    for mesh in (grid, line, sharding):
        _let_wait_as_long(mesh)
    return Mesh(line, grid.get_group("context"), ranks // context, context, sharding, device)


def _let_wait_as_long(mesh: DeviceMesh) -> None:
    """Give the groups of ``mesh`` the timeout of the group of all ranks: a mesh makes them with torch's default."""
    world = dist.group.WORLD
    assert world is not None
    timeout = read_timeout(world)
    for group in mesh.get_all_groups():
        if timeout is not None and group is not world:
            group.set_timeout(timeout)
