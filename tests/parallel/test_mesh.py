"""Ranks find their place: context ranks are neighbours, data ranks see other rows, one line holds all."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ropewalk.attention.ulysses import find_ulysses_groups
from ropewalk.checkpoint.saver import Saver
from ropewalk.core.error import UserError
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.plan.rank_setup import RankSetup


def describe(ranks: int, context: int) -> tuple[int, ...]:
    mesh = make_mesh(ranks, context)
    group = dist.get_world_size(mesh.context_group)
    return mesh.rank, mesh.data_rank, mesh.context_rank, mesh.data_ranks, mesh.context_ranks, group, mesh.line.size()


def test_context_ranks_are_neighbours() -> None:
    assert run_ranks(describe, 4, 4, 2) == [
        (0, 0, 0, 2, 2, 2, 4),
        (1, 0, 1, 2, 2, 2, 4),
        (2, 1, 0, 2, 2, 2, 4),
        (3, 1, 1, 2, 2, 2, 4),
    ]


def test_one_rank_is_a_mesh_too() -> None:
    assert run_ranks(describe, 1, 1, 1) == [(0, 0, 0, 1, 1, 1, 1)]
    assert run_ranks(lambda: str(make_mesh(1, 1).device), 1) == ["cpu"]


def test_a_replica_is_sharded_over_neighbours() -> None:
    def look() -> tuple[int, tuple[int, ...], int]:
        mesh = make_mesh(4, 1, replicas=2)
        return mesh.replicas, tuple(mesh.sharding.mesh.flatten().tolist()), mesh.sharding.get_local_rank("shards")

    assert run_ranks(look, 4, threads=1) == [(2, (0, 1, 2, 3), shard) for shard in (0, 1, 0, 1)]
    with pytest.raises(UserError, match="3 ranks cannot be divided into groups of 2 replicas"):
        run_ranks(lambda: make_mesh(3, 1, replicas=2), 3, threads=1)


def test_stages_share_their_groups() -> None:
    def count() -> tuple[int, int]:
        first = make_mesh(4, 2, replicas=2)
        before = len(dist.distributed_c10d._world.pg_map)
        assert make_mesh(4, 2, replicas=2).context_group is first.context_group
        return before, len(dist.distributed_c10d._world.pg_map)

    assert all(before == after for before, after in run_ranks(count, 4, threads=1))


def test_every_group_has_the_timeout_of_the_recipe(tmp_path: Path) -> None:
    """torch gives a group of some ranks 30 minutes, and a step may take longer."""

    def ask() -> tuple[set[int], set[float], float]:
        mesh = make_mesh(4, 4, replicas=2)
        make_mesh(4, 2)
        find_ulysses_groups(mesh.context_group, 2)
        groups = list(dist.distributed_c10d._world.pg_map)
        with Saver(tmp_path, keep=1):
            (saving,) = dist.distributed_c10d._world.pg_map.keys() - set(groups)
            return {each.size() for each in groups}, {read_seconds(each) for each in groups}, read_seconds(saving)

    for seconds, saving in ((9000.0, 9000.0), (600.0, 1800.0)):  # a save waits for disks: never below torch's default
        setup = RankSetup(message_seconds=seconds)
        assert run_ranks(ask, 4, threads=1, setup=setup) == [({1, 2, 4}, {seconds}, saving)] * 4


def read_seconds(group: dist.ProcessGroup) -> float:
    return float(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())


def test_degrees_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="3 ranks cannot be divided into groups of 2 context ranks"):
        run_ranks(describe, 3, 3, 2)
