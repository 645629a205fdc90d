"""cuDNN plans a graph for each new shape, so the shapes that it gets are few, whatever the documents are."""

import numpy as np
import pytest
import torch

from packs import pack
from ropewalk.attention.choose_kernel import schedule_tiles
from ropewalk.attention.cudnn_kernel import SplitKernel
from ropewalk.attention.cudnn_shapes import GAIN, choose_padding, list_sizes
from ropewalk.attention.varlen_schedule import VarlenCall
from ropewalk.partition import partition_tokens
from ropewalk.partition.choose import choose_partition, make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.partition.partition import Partition
from ropewalk.partition.tiles import TileMask
from ropewalk.partition.ulysses import UlyssesPartition

Shape = tuple[int, int, bool]


def draw_pack(random: np.random.Generator, tokens: int, document_tokens: int) -> np.ndarray:
    """Documents of log-normal length around ``document_tokens``; the last one is cut."""
    lengths = np.maximum(random.lognormal(np.log(document_tokens), 1, size=4 * tokens // document_tokens + 8), 1)
    return pack(lengths.astype(int).tolist(), tokens)


def list_shapes(partition: Partition, rank: int) -> set[Shape]:
    """The shapes that cuDNN gets in a layer: queries, keys, whether it is a triangle."""
    choose, shapes = choose_padding(partition), set()
    for tiles in (partition.causal_tiles(rank), *partition.tiles(rank)):
        for tile in tiles:
            padding = choose(tile.query_tokens, tile.key_tokens, tile.mask)
            if padding is not None:
                shapes.add((tile.query_tokens + padding, tile.key_tokens + padding, tile.mask.causal is not None))
    return shapes


@pytest.mark.parametrize(
    ("tokens", "document_tokens", "ranks"),
    [(131072, 65536, 8), (131072, 65536, 1), (32768, 16384, 2)],
)
def test_shapes_stay_few(tokens: int, document_tokens: int, ranks: int) -> None:
    """At most 8 shapes a rank over 200 packs, at most 2 of them after the 20th; every fourth row is one document."""
    sharing = make_sharing(Heads(32, 8, 128), device="cuda", element_bytes=2)
    random = np.random.default_rng(1)
    watched = range(0, ranks, 4)
    seen: dict[int, dict[Shape, int]] = {rank: {} for rank in watched}

    def list_all(document: np.ndarray) -> dict[int, set[Shape]]:
        partition = choose_partition(document, ranks=ranks, sharing=sharing).partition
        rows = partition.token_partition if isinstance(partition, UlyssesPartition) else partition
        return {rank: list_shapes(rows, rank % rows.ranks) for rank in watched}

    whole = list_all(pack([tokens], tokens))
    for number in range(200):
        listed = whole if number % 4 == 3 else list_all(draw_pack(random, tokens, document_tokens))
        for rank in watched:
            for shape in listed[rank]:
                seen[rank].setdefault(shape, number)
    assert all(seen.values()), "cuDNN gets something"
    assert max(map(len, seen.values())) <= 8, seen
    assert max(sum(first >= 20 for first in shapes.values()) for shapes in seen.values()) <= 2, seen


def test_one_document_goes_to_cudnn_whole() -> None:
    """All tiles as they are: they have the same few shapes in every such row."""
    partition = partition_tokens(pack([131072], 131072), ranks=8)
    assert sorted(list_shapes(partition, 1)) == [(8192, 8192, False), (8192, 106496, False), (16384, 16384, True)]
    twice = partition_tokens(np.concatenate([pack([65536], 65536)] * 2), ranks=8)
    assert list_shapes(twice, 1), "rows of one document each, several to a batch"
    assert not list_shapes(partition_tokens(pack([1024] * 32, 32768), ranks=1), 0), "a launch each is not worth it"


def test_a_triangle_is_padded_only_where_that_is_cheaper() -> None:
    partition = partition_tokens(pack([20000, 12768], 32768), ranks=1)
    choose, triangle = choose_padding(partition), TileMask(0, None)
    sizes = list_sizes(32768)
    assert sizes == (19584, 23296, 27648, 32768)
    for queries in range(64, 32769, 64):
        padding = choose(queries, queries, triangle)
        if padding is not None:
            assert queries + padding in sizes and (queries + padding) ** 2 <= GAIN * queries**2
        else:
            assert all(size < queries or size**2 > GAIN * queries**2 for size in sizes)
    assert choose(27648, 27648, TileMask(None, None)) is None, "more keys would take a share of the softmax"


def test_the_call_is_split_as_chosen() -> None:
    """The schedule that a layer runs, not the rule alone."""
    partition = partition_tokens(pack([5000, 12000, 15768], 32768), ranks=1)
    (call,) = schedule_tiles(partition, 0, "flash", torch.device("cpu")).causal_tiles.calls
    assert isinstance(call, VarlenCall) and not isinstance(call.kernel, SplitKernel), "all too short for this row"
    partition = partition_tokens(pack([5000, 20000, 7768], 32768), ranks=1)
    (call,) = schedule_tiles(partition, 0, "flash", torch.device("cpu")).causal_tiles.calls
    assert isinstance(call, VarlenCall) and isinstance(call.kernel, SplitKernel)
    (dense,), varlen = call.kernel.dense, call.kernel.varlen
    assert (dense.queries, dense.padding, dense.causal) == (slice(5000, 25000), 3296, True)
    assert varlen is not None and varlen.queries.lengths == (5000, 7768)
    assert call.kernel.queries == call.kernel.keys == (slice(0, 5000), slice(25000, 32768))
