"""Hundreds of small documents become few calls, regular ones views, and every result comes back to its place."""

import gc

import numpy as np
import torch

from packs import pack
from ropewalk.attention import choose_kernel
from ropewalk.attention import cpu_schedule as schedules
from ropewalk.attention.schedule import AttentionSchedule
from ropewalk.partition import Partition, partition_tokens


def schedule_tiles(partition: Partition, rank: int) -> AttentionSchedule:
    return choose_kernel.schedule_tiles(partition, rank, "cpu", torch.device("cpu"))


def test_tiny_documents_share_calls() -> None:
    lengths = np.random.default_rng(0).integers(16, 65, size=400).tolist()
    partition = partition_tokens(pack(lengths, 8192), ranks=1)
    causal_tiles = schedule_tiles(partition, 0).causal_tiles
    assert len(causal_tiles.calls) <= 10
    computed = sum(len(call.query.starts) * call.query.lengths[0] for call in causal_tiles.calls)
    assert computed < 1.15 * 8192, "stacking beyond a document's length wastes a few tokens only"


def test_equal_documents_are_one_call_without_a_copy() -> None:
    partition = partition_tokens(np.concatenate([pack([512], 512)] * 4), ranks=2)
    schedule = schedule_tiles(partition, 1)
    (call,) = schedule.causal_tiles.calls
    tensor = torch.randn(1024, 2, 8)
    taken = call.query.take_stacked(tensor)
    assert taken.shape == (2, 512, 2, 8) and taken.data_ptr() == tensor.data_ptr()
    assert schedule.causal_tiles.order is None and not schedule.has_padding and not schedule.merges


def test_one_document_over_two_ranks_is_two_calls_on_the_first() -> None:
    partition = partition_tokens(pack([1024], 1024), ranks=2, layout="zigzag")
    for rank in range(2):
        schedule = schedule_tiles(partition, rank)
        assert len(schedule.causal_tiles.calls) == 1
        assert [len(layers) for layers in schedule.steps] == [0, 1]
    assert schedule_tiles(partition, 0).steps[1][0].tokens == slice(256, 512)


def test_a_schedule_is_made_once_and_goes_with_its_partition() -> None:
    partition = partition_tokens(pack([8], 8), ranks=1)
    assert schedule_tiles(partition, 0) is schedule_tiles(partition, 0)
    before = len(choose_kernel._schedules)
    del partition
    gc.collect()
    assert len(choose_kernel._schedules) == before - 1


def test_lengths_are_rounded_up_by_less_than_a_quarter() -> None:
    length = np.arange(1, 3000)
    size = schedules._round_up(length)
    assert (size >= length).all() and (size[length > 16] < 1.25 * length[length > 16]).all()
    assert len(np.unique(size[length <= 1024])) <= 36
    assert np.array_equal(size[length > 1024], length[length > 1024])
