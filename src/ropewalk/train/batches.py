"""A step's rows, dealt out: to the data ranks, into micro-batches, and by partition over the context ranks.

A pure function of the feed and the cursor, so it runs one step ahead, on the CPU, in a thread. Which rows a step takes
does not depend on the ranks; which rank takes them does, and follows what they cost. Skip-wise positions are drawn row
by row, by the row's number.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from ropewalk.core.digest import digest_arrays
from ropewalk.core.record import Batch
from ropewalk.core.seed import stream
from ropewalk.corpus.feed import Feed
from ropewalk.parallel.mesh import Mesh
from ropewalk.partition import AnyPartition, cut
from ropewalk.partition.choose import Sharing, choose_partition
from ropewalk.partition.deal import count_row_pairs, deal_rows
from ropewalk.recipe.spec import Stage
from ropewalk.rope.skip import skip_rows

_FIELDS = tuple(field.name for field in fields(Batch))


@dataclass(frozen=True)
class MicroBatch:
    """What one rank takes through the model at once: its tokens of a few rows, and how they are cut."""

    tokens: Int[Tensor, "local"]
    positions: Int[Tensor, "local"]
    labels: Int[Tensor, "local"]
    weights: Float[Tensor, "local"]
    source: Int[Tensor, "local"]
    partition: AnyPartition
    rows: tuple[int, ...] = ()
    """Which of the feed's rows they are; none where it is a row of padding."""


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
    dealt = deal_rows(costs, ranks=mesh.data_ranks, micro_rows=spec.micro_rows)[mesh.data_rank]
    micro, pairs, digests = [], 0.0, []
    for part in dealt:
        numbers = tuple(cursor + row for row in part)
        batch = _read_rows(feed, numbers, spec=spec) if numbers else _empty_row(feed)
        partition = choose_partition(batch.document, ranks=mesh.context_ranks, sharing=sharing).partition
        pairs += float(partition.pairs[mesh.context_rank])
        micro.append(replace(_cut_batch(batch, partition, factors=factors, mesh=mesh), rows=numbers))
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
    return MicroBatch(tokens, positions, labels, weights, source=source, partition=partition)


def _empty_row(feed: Feed) -> Batch:
    """A row of padding, for a data rank that has run out of rows while others have not."""
    zeros, nobody = np.zeros((1, feed.context_tokens), np.int32), np.full((1, feed.context_tokens), -1, np.int32)
    return Batch(zeros, zeros, zeros.astype(np.float32), zeros, nobody, nobody)
