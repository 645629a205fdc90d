"""A step's rows, dealt out: to the data ranks, into micro-batches, and by partition over the context ranks.

A pure function of the feed and the cursor, so it runs one step ahead, on the CPU, in a thread. Which rows a step takes
does not depend on the ranks; which rank takes them does, and follows what they cost. Skip-wise positions are drawn row
by row, by the row's number.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from ropewalk.core.digest import digest_arrays
from ropewalk.core.record import Batch
from ropewalk.core.seed import stream
from ropewalk.corpus.mix.dataset import Feed
from ropewalk.parallel.mesh import Mesh
from ropewalk.partition import AnyPartition, cut
from ropewalk.partition.balance_data_ranks import assign_sequences, count_row_pairs
from ropewalk.partition.choose import Sharing, choose_partition
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.weigh import LongCE
from ropewalk.rope.pose import skip_rows
from ropewalk.train.long_ce import NearReading, cut_blocks, list_readings, make_readings

_FIELDS = tuple(field.name for field in fields(Batch))


@dataclass(frozen=True)
class MicroBatch:
    """What one rank takes through the model at once: its tokens of a few rows, and how they are cut."""

    tokens: Int[Tensor, "local"]
    positions: Int[Tensor, "local"]
    labels: Int[Tensor, "local"]
    weights: Float[Tensor, "local"]
    source: Int[Tensor, "local"]
    lengths: Int[Tensor, "local"]
    """Of each token's document, or of the piece of it that the row holds."""
    partition: AnyPartition
    rows: tuple[int, ...] = ()
    """Which of the feed's rows they are; none where it is a row of padding."""
    near: tuple[NearReading, ...] = ()
    """The same rows with their far context taken away, for LongCE."""
    weighed: Bool[Tensor, "local"] | None = None
    """Which tokens those readings ask for; None where nothing is weighed."""


@dataclass(frozen=True)
class StepBatches:
    """One rank's share of a step of ``rows`` global rows. ``pairs`` counts its attention: queries x keys.

    ``digest`` names the rows before they were cut: the ranks that share them must have read the same.
    ``document_tokens`` are the lengths of all documents of the whole step, or pieces of them, on every rank.
    """

    rows: int
    micro: tuple[MicroBatch, ...]
    pairs: float
    digest: int
    document_tokens: Int64[np.ndarray, "documents"]


def make_batches(feed: Feed, cursor: int, *, rows: int, spec: Stage, mesh: Mesh, sharing: Sharing) -> StepBatches:
    """The share of this rank of ``mesh`` in rows ``[cursor, cursor + rows)`` of the feed."""
    # One more, at -1, for padding.
    factors = np.array([*(spec.loss_weights.get(name, 1.0) for name in feed.sources), 1.0], dtype=np.float32)
    held = [feed.document_tokens(number) for number in range(cursor, cursor + rows)]
    costs = count_row_pairs(held)
    waves = assign_sequences(costs, ranks=mesh.data_ranks, micro_rows=spec.micro_rows)
    micro, pairs, digests = [], 0.0, []
    for wave in zip(*waves, strict=True):
        numbers = tuple(cursor + row for row in wave[mesh.data_rank])
        batch = _read_rows(feed, numbers, spec=spec) if numbers else _empty_row(feed)
        partition = choose_partition(batch.document, ranks=mesh.context_ranks, sharing=sharing).partition
        pairs += float(partition.pairs[mesh.context_rank])
        made = replace(_cut_batch(batch, partition, factors=factors, mesh=mesh), rows=numbers)
        if spec.long_ce is not None:
            longest = max(tokens for rows in wave for row in rows for tokens in held[row])
            made = _add_near(made, batch, spec.long_ce, longest_tokens=longest, mesh=mesh, sharing=sharing)
        micro.append(made)
        digests.append(digest_arrays(batch.tokens, batch.document, batch.positions))
    documents = np.array([tokens for row in held for tokens in row], dtype=np.int64)
    return StepBatches(rows, tuple(micro), pairs, digest_arrays(np.array(digests)), documents)


def _read_rows(feed: Feed, numbers: tuple[int, ...], *, spec: Stage) -> Batch:
    """Rows of the feed. A stage that skips moves their positions only: documents, and so the mask, stay as they are."""
    each = [feed.batch(number, 1) for number in numbers]
    batch = Batch(**{name: np.concatenate([getattr(row, name) for row in each]) for name in _FIELDS})
    if spec.skip is None:
        return batch
    random = [stream("skip", feed.digest, number) for number in numbers]
    return replace(batch, positions=skip_rows(batch.document, spec.skip, random=random))


def _cut_batch(batch: Batch, partition: AnyPartition, *, factors: np.ndarray, mesh: Mesh) -> MicroBatch:
    tokens, positions, labels, weights, source = (
        torch.from_numpy(cut(partition, mesh.context_rank, field)).to(mesh.device)
        for field in (batch.tokens, batch.positions, batch.labels, batch.weights * factors[batch.source], batch.source)
    )
    lengths = torch.from_numpy(partition.document_tokens(mesh.context_rank)).to(mesh.device)
    return MicroBatch(tokens, positions, labels, weights, source=source, lengths=lengths, partition=partition)


def _add_near(
    micro: MicroBatch, batch: Batch, spec: LongCE, *, longest_tokens: int, mesh: Mesh, sharing: Sharing
) -> MicroBatch:
    """Ranks read as often as the longest document of anybody's rows asks for, since they gather weights together."""
    numbers = list_readings(longest_tokens, spec)
    readings = tuple(make_readings(batch, spec, numbers=numbers, mesh=mesh, sharing=sharing))
    counts = np.zeros(batch.document.shape, bool)
    for number in numbers:
        counts |= cut_blocks(batch.document, spec, number).counts & (batch.weights > 0)
    weighed = torch.from_numpy(cut(micro.partition, mesh.context_rank, counts)).to(mesh.device)
    return replace(micro, near=readings, weighed=weighed)


def _empty_row(feed: Feed) -> Batch:
    """A row of padding, for a data rank that has run out of rows while others have not."""
    zeros, nobody = np.zeros((1, feed.context_tokens), np.int32), np.full((1, feed.context_tokens), -1, np.int32)
    return Batch(zeros, zeros, zeros.astype(np.float32), zeros, nobody, nobody)
