"""Rows with their documents cut into overlapping blocks: what LongCE asks of a token whose far context is taken away.

A window over keys would not do: through the layers below, a token sees what its keys have seen, layers x window far. So
each reading cuts every long document into blocks of its own, laid end to end, and the next reading's begin a stride
later; of a block only the last stride counts, since it has most before it. To the partition blocks are documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64
from torch import Tensor

from ropewalk.core.record import Batch
from ropewalk.parallel.mesh import Mesh
from ropewalk.partition import AnyPartition, cut
from ropewalk.partition.choose import Sharing, choose_partition
from ropewalk.recipe.weigh import LongCE


@dataclass(frozen=True)
class NearReading:
    """One rank's part of rows in blocks, by a partition of their own. ``packed`` says where in the rows each token is.

    ``weights`` are 1 where a label is asked for, else 0.
    """

    tokens: Int[Tensor, "local"]
    positions: Int[Tensor, "local"]
    labels: Int[Tensor, "local"]
    weights: Float[Tensor, "local"]
    partition: AnyPartition
    packed: Int[Tensor, "local"]


@dataclass(frozen=True)
class Blocks:
    """Which block each token belongs to in one reading (-1 for none), its place in it, and whether it counts."""

    document: Int32[np.ndarray, "rows context"]
    positions: Int32[np.ndarray, "rows context"]
    counts: Bool[np.ndarray, "rows context"]


def list_readings(longest_tokens: int, spec: LongCE) -> list[int]:
    """The readings that have something to ask, where no document is longer than that."""
    first_block = [number or spec.readings for number in range(spec.readings)]
    return [
        number
        for number, block in enumerate(first_block)
        if block * spec.stride_tokens + spec.near_tokens < longest_tokens
    ]


def cut_blocks(document: Int32[np.ndarray, "rows context"], spec: LongCE, reading: int) -> Blocks:
    """The blocks of one reading: those that begin at a multiple of the stride, ``reading`` strides and so on."""
    position, length = _measure_documents(document)
    shifted = position - reading * spec.stride_tokens
    block, place = np.divmod(shifted, spec.block_tokens)
    begin = position - place
    # The first block of a document has all that stands before it; one without a token that counts need not be read.
    read = (document >= 0) & (begin > 0) & (begin + spec.near_tokens < length)
    change = np.ones(document.shape, bool)
    change[:, 1:] = (document[:, 1:] != document[:, :-1]) | (block[:, 1:] != block[:, :-1])
    number = np.cumsum(change.reshape(-1), dtype=np.int32).reshape(document.shape) - 1
    return Blocks(
        np.where(read, number, -1).astype(np.int32),
        np.where(read, place, 0).astype(np.int32),
        read & (place >= spec.near_tokens),
    )


def make_readings(
    batch: Batch, spec: LongCE, *, numbers: list[int], mesh: Mesh, sharing: Sharing
) -> Iterator[NearReading]:
    """This rank's part of the readings ``numbers`` of some rows."""
    for number in numbers:
        blocks = cut_blocks(batch.document, spec, number)
        partition = choose_partition(blocks.document, ranks=mesh.context_ranks, sharing=sharing).partition
        asked: Float32[np.ndarray, "rows context"] = (blocks.counts & (batch.weights > 0)).astype(np.float32)
        tokens, positions, labels, weights = (
            torch.from_numpy(cut(partition, mesh.context_rank, field)).to(mesh.device)
            for field in (batch.tokens, blocks.positions, batch.labels, asked)
        )
        packed = torch.from_numpy(partition.owned(mesh.context_rank)).to(mesh.device)
        yield NearReading(tokens, positions, labels, weights, partition, packed)


def _measure_documents(
    document: Int32[np.ndarray, "rows context"],
) -> tuple[Int64[np.ndarray, "rows context"], Int64[np.ndarray, "rows context"]]:
    """How many tokens of its document stand before each token in its row, and how long that document is there."""
    context = document.shape[1]
    change = np.ones(document.shape, bool)
    change[:, 1:] = document[:, 1:] != document[:, :-1]
    begins = np.flatnonzero(change)
    lengths = np.diff(np.append(begins, document.size))
    which = np.cumsum(change.reshape(-1)) - 1
    position = np.arange(document.size) - begins[which]
    return position.reshape(-1, context), lengths[which].reshape(-1, context)
