"""Cut the documents of sequences into overlapping blocks, to measure a token's loss with truncated context (LongCE).

A sliding window over keys is not enough: through the lower layers a token still sees layers x window tokens back. So
each reading divides every long document into blocks that follow one another without a gap. The blocks of the next
reading begin one stride later. Only the last stride of a block counts, because its tokens have the longest context in
the block. The partition treats each block as a document.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.attention.prepare_schedule import prepare_attention
from ropewalk.core.record import Batch
from ropewalk.parallel.mesh import Mesh
from ropewalk.partition import AnyPartition, local_shard
from ropewalk.partition.choose import Sharing, choose_partition
from ropewalk.recipe.long_ce import LongCE


@dataclass(frozen=True)
class TruncatedReading:
    """One rank's local shard of sequences in blocks, with a partition for the blocks.

    ``packed`` is the index of each token in the sequences. ``weights`` is 1 where the loss is needed, else 0;
    ``counted`` are the indices of those tokens.
    """

    tokens: Int[Tensor, "local"]
    positions: Int[Tensor, "local"]
    labels: Int[Tensor, "local"]
    weights: Float[Tensor, "local"]
    partition: AnyPartition
    packed: Int[Tensor, "local"]
    counted: Int64[Tensor, "counted"]


@dataclass(frozen=True)
class Blocks:
    """For each token in one reading: its block (-1 for none), its position in the block, and whether it counts."""

    document: Int32[np.ndarray, "rows context"]
    positions: Int32[np.ndarray, "rows context"]
    counts: Bool[np.ndarray, "rows context"]


def list_readings(longest_tokens: int, spec: LongCE) -> list[int]:
    """Return the readings in which a token counts, if the longest document has ``longest_tokens`` tokens."""
    first_block = [number or spec.readings for number in range(spec.readings)]
    return [
        number
        for number, block in enumerate(first_block)
        if block * spec.stride_tokens + spec.truncated_tokens < longest_tokens
    ]


def cut_blocks(document: Int32[np.ndarray, "rows context"], spec: LongCE, reading: int) -> Blocks:
    """Return the blocks of one reading. The first one begins ``reading`` strides after the start of a document.

    Each further block follows the previous one.
    """
    position, length = _measure_documents(document)
    shifted = position - reading * spec.stride_tokens
    block, place = np.divmod(shifted, spec.block_tokens)
    begin = position - place
    # The first block of a document has its full context. A block without a token that counts need not be read.
    read = (document >= 0) & (begin > 0) & (begin + spec.truncated_tokens < length)
    change = np.ones(document.shape, bool)
    change[:, 1:] = (document[:, 1:] != document[:, :-1]) | (block[:, 1:] != block[:, :-1])
    number = np.cumsum(change.reshape(-1), dtype=np.int32).reshape(document.shape) - 1
    return Blocks(
        np.where(read, number, -1).astype(np.int32),
        np.where(read, place, 0).astype(np.int32),
        read & (place >= spec.truncated_tokens),
    )


def make_readings(
    batch: Batch, spec: LongCE, *, numbers: list[int], mesh: Mesh, sharing: Sharing
) -> Iterator[TruncatedReading]:
    """Yield this rank's local shard of each of the readings ``numbers`` of some sequences."""
    for number in numbers:
        blocks = cut_blocks(batch.document, spec, number)
        partition = choose_partition(blocks.document, ranks=mesh.context_ranks, sharing=sharing).partition
        asked: Float32[np.ndarray, "rows context"] = (blocks.counts & (batch.weights > 0)).astype(np.float32)
        rank = mesh.context_rank
        fields = (batch.tokens, blocks.positions, batch.labels, asked)
        mine = [local_shard(partition, rank, field) for field in fields]
        tokens, positions, labels, weights, packed, counted = (
            copy_to_device(each, mesh.device) for each in (*mine, partition.owned(rank), np.flatnonzero(mine[3]))
        )
        prepare_attention(partition, rank)
        yield TruncatedReading(tokens, positions, labels, weights, partition, packed, counted)


def _measure_documents(
    document: Int32[np.ndarray, "rows context"],
) -> tuple[Int64[np.ndarray, "rows context"], Int64[np.ndarray, "rows context"]]:
    """Return, for each token, the number of earlier tokens of its document and the document's length.

    Both count only the document's tokens in this sequence.
    """
    context = document.shape[1]
    change = np.ones(document.shape, bool)
    change[:, 1:] = document[:, 1:] != document[:, :-1]
    begins = np.flatnonzero(change)
    lengths = np.diff(np.append(begins, document.size))
    which = np.cumsum(change.reshape(-1)) - 1
    position = np.arange(document.size) - begins[which]
    return position.reshape(-1, context), lengths[which].reshape(-1, context)
