"""Divide a step's sequences among data ranks and micro-batches, and each sequence among the context ranks.

This is a pure function of the dataset and the cursor, so it runs one step ahead, on the CPU, in a thread. The sequences
of a step do not depend on the ranks. The data rank of a sequence does depend on them, and on the attention cost of the
sequences. Skip-wise positions (PoSE) are drawn for each sequence on its own, from the sequence's number.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.attention.prepare_schedule import prepare_attention
from ropewalk.core.digest import digest_arrays
from ropewalk.core.record import Batch
from ropewalk.core.seed import stream
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.parallel.mesh import Mesh
from ropewalk.partition import AnyPartition, local_shard
from ropewalk.partition.balance_data_ranks import assign_sequences, count_sequence_pairs
from ropewalk.partition.choose import Sharing, choose_partition
from ropewalk.recipe.long_ce import LongCE
from ropewalk.recipe.stage import Stage
from ropewalk.rope.pose import pose_positions
from ropewalk.train.long_ce import TruncatedReading, cut_blocks, list_readings, make_readings

_FIELDS = tuple(field.name for field in fields(Batch))


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward pass on one rank: its local shard of a few sequences, and their partition."""

    tokens: Int[Tensor, "local"]
    positions: Int[Tensor, "local"]
    labels: Int[Tensor, "local"]
    weights: Float[Tensor, "local"]
    source: Int[Tensor, "local"]
    lengths: Int[Tensor, "local"]
    """The length of each token's document in tokens, or of the document's segment in the sequence."""
    partition: AnyPartition
    counted: Int64[Tensor, "counted"] | None = None
    """The indices of the weights that are not 0; None looks for them in the forward, and the host waits for a GPU."""
    sequences: tuple[int, ...] = ()
    """The numbers of the sequences in the dataset; empty for a sequence of padding."""
    truncated: tuple[TruncatedReading, ...] = ()
    """The same sequences with truncated context, for LongCE."""
    weighed: Bool[Tensor, "local"] | None = None
    """The tokens whose loss those readings measure; None without LongCE."""


@dataclass(frozen=True)
class StepBatches:
    """One rank's share of a step of ``sequences`` global sequences. ``pairs`` is its attention work: queries x keys.

    ``digest`` identifies the sequences before they are divided: ranks that share them must have read the same ones.
    ``document_tokens`` holds the lengths of all documents, or their segments, of the whole step, on every rank.
    """

    sequences: int
    micro: tuple[MicroBatch, ...]
    pairs: float
    digest: int
    document_tokens: Int64[np.ndarray, "documents"]


def make_batches(
    dataset: Dataset, cursor: int, *, sequences: int, spec: Stage, mesh: Mesh, sharing: Sharing
) -> StepBatches:
    """Return the share of this rank of ``mesh`` in the sequences ``[cursor, cursor + sequences)`` of ``dataset``."""
    # The last factor is for padding, whose source is -1.
    factors = np.array([*(spec.loss_weights.get(name, 1.0) for name in dataset.sources), 1.0], dtype=np.float32)
    held = [dataset.document_tokens(number) for number in range(cursor, cursor + sequences)]
    costs = count_sequence_pairs(held)
    waves = assign_sequences(costs, ranks=mesh.data_ranks, micro_batch_size=spec.micro_batch_size)
    micro, pairs, digests = [], 0.0, []
    for wave in zip(*waves, strict=True):
        numbers = tuple(cursor + sequence for sequence in wave[mesh.data_rank])
        batch = _read_sequences(dataset, numbers, spec=spec) if numbers else _empty_sequence(dataset)
        batch = replace(batch, weights=batch.weights * factors[batch.source])
        partition = choose_partition(batch.document, ranks=mesh.context_ranks, sharing=sharing).partition
        pairs += float(partition.pairs[mesh.context_rank])
        made = replace(_cut_batch(batch, partition, mesh=mesh), sequences=numbers)
        if spec.long_ce is not None:
            longest = max(tokens for sequences in wave for sequence in sequences for tokens in held[sequence])
            made = _add_truncated(made, batch, spec.long_ce, longest_tokens=longest, mesh=mesh, sharing=sharing)
        micro.append(made)
        digests.append(digest_arrays(batch.tokens, batch.document, batch.positions))
    documents = np.array([tokens for sequence in held for tokens in sequence], dtype=np.int64)
    return StepBatches(sequences, tuple(micro), pairs, digest_arrays(np.array(digests)), documents)


def _read_sequences(dataset: Dataset, numbers: tuple[int, ...], *, spec: Stage) -> Batch:
    """Return sequences of the dataset. PoSE changes only their positions, not their documents, and so not the mask."""
    each = [dataset.batch(number, 1) for number in numbers]
    batch = Batch(**{name: np.concatenate([getattr(sequence, name) for sequence in each]) for name in _FIELDS})
    if spec.pose is None:
        return batch
    random = [stream("pose", dataset.digest, number) for number in numbers]
    return replace(batch, positions=pose_positions(batch.document, spec.pose, random=random))


def _cut_batch(batch: Batch, partition: AnyPartition, *, mesh: Mesh) -> MicroBatch:
    rank = mesh.context_rank
    whole = (batch.tokens, batch.positions, batch.labels, batch.weights, batch.source)
    fields = [local_shard(partition, rank, field) for field in whole]
    fields += [partition.document_tokens(rank), np.flatnonzero(fields[3])]
    prepare_attention(partition, rank)
    tokens, positions, labels, weights, source, lengths, counted = (
        copy_to_device(field, mesh.device) for field in fields
    )
    return MicroBatch(
        tokens, positions, labels, weights, source=source, lengths=lengths, partition=partition, counted=counted
    )


def _add_truncated(
    micro: MicroBatch, batch: Batch, spec: LongCE, *, longest_tokens: int, mesh: Mesh, sharing: Sharing
) -> MicroBatch:
    """Add the readings with truncated context, for LongCE.

    All ranks make the same number of readings, because they gather weights together. This number follows from the
    longest document on any rank.
    """
    numbers = list_readings(longest_tokens, spec)
    readings = tuple(make_readings(batch, spec, numbers=numbers, mesh=mesh, sharing=sharing))
    counts = np.zeros(batch.document.shape, bool)
    for number in numbers:
        counts |= cut_blocks(batch.document, spec, number).counts & (batch.weights > 0)
    weighed = copy_to_device(local_shard(micro.partition, mesh.context_rank, counts), mesh.device)
    return replace(micro, truncated=readings, weighed=weighed)


def _empty_sequence(dataset: Dataset) -> Batch:
    """Return a sequence of padding, for a data rank that has no sequence left while other ranks still have one."""
    zeros, nobody = np.zeros((1, dataset.context_tokens), np.int32), np.full((1, dataset.context_tokens), -1, np.int32)
    return Batch(zeros, zeros, zeros.astype(np.float32), zeros, nobody, nobody)
