"""Where each of a rank's tokens stands among chunks of equal length, so that all segments are computed at once.

Segments come in three groups: those that begin their document, inner ones, and those that end it. In a group, chunk 0
of all segments comes first, then chunk 1 of those that have one, and so on, longest segments first. So one step of all
recurrences of a group reads a slice. A table is made once for each partition; layers only read it, and the host waits
for no device.
"""

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.partition.chains import Chains, find_chains
from ropewalk.partition.partition import Partition


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Segments of a rank, by their numbers in the partition, longest first.

    ``sizes[i]`` of them have a chunk i; their chunks are ``first_chunk`` and those that follow.
    """

    segments: list[int]
    sizes: list[int]
    first_chunk: int

    @property
    def chunks(self) -> slice:
        """Its chunks in the table."""
        return slice(self.first_chunk, self.first_chunk + sum(self.sizes))


@dataclass(frozen=True, eq=False)
class ChunkTable:
    """``tokens`` are local indices, ``local_tokens`` where a chunk has none; ``places`` is the way back.

    A token of padding has the place behind all chunks.
    """

    chunk_tokens: int
    tokens: Int64[Tensor, "slots"]
    places: Int64[Tensor, "local"]
    filled: bool
    """Whether each slot has a token."""
    padded: bool
    """Whether a local token has no slot."""
    begins: SegmentGroup
    inner: SegmentGroup
    ends: SegmentGroup
    lengths: dict[int, int]
    """Tokens of each segment of the partition that this rank folds."""
    chains: list[list[int]]
    """Of each document with a segment of this rank that does not begin it: its segments up to this rank's last."""
    beginning: frozenset[int]
    """Segments in ``chains`` that begin their document."""
    send: list[list[int]]
    receive: list[list[int]]
    """Segments whose summaries go to each rank, and come from each."""

    @cached_property
    def own(self) -> frozenset[int]:
        """This rank's segments that do not begin their document."""
        return frozenset(self.inner.segments + self.ends.segments)


_tables: WeakKeyDictionary[Partition, dict[tuple[int, int, torch.device], ChunkTable]] = WeakKeyDictionary()
_chains: WeakKeyDictionary[Partition, Chains] = WeakKeyDictionary()


def plan_chunks(partition: Partition, rank: int, chunk_tokens: int, device: torch.device) -> ChunkTable:
    """The rank's table under a partition; made at the first request."""
    of_partition = _tables.setdefault(partition, {})
    key = rank, chunk_tokens, device
    if key not in of_partition:
        of_partition[key] = _plan(partition, rank, chunk_tokens, device)
    return of_partition[key]


def _plan(partition: Partition, rank: int, chunk_tokens: int, device: torch.device) -> ChunkTable:
    segments = partition.segments
    chains = _chains.get(partition) or _chains.setdefault(partition, find_chains(segments, partition.ranks))
    mine = (segments.owner == rank) & (segments.document >= 0)
    length = segments.ranges.length
    tokens, groups, chunks = [], [], 0
    for chosen in (mine & ~chains.before, mine & chains.before & chains.after, mine & chains.before & ~chains.after):
        index = np.flatnonzero(chosen)
        index = index[np.argsort(-length[index], kind="stable")]
        counts = -(-length[index] // chunk_tokens)
        sizes = [int((counts > place).sum()) for place in range(int(counts.max(initial=0)))]
        for place, size in enumerate(sizes):
            offset = place * chunk_tokens + np.arange(chunk_tokens)
            held = index[:size, None]
            slots = np.where(offset < length[held], segments.local[held] + offset, partition.local_tokens)
            tokens.append(slots.reshape(-1))
        groups.append(SegmentGroup(index.tolist(), sizes, chunks))
        chunks += sum(sizes)
    # [chunk_tokens] for each chunk -> [slots]
    all_tokens = np.concatenate([np.empty(0, np.int64), *tokens])
    places = np.full(partition.local_tokens + 1, len(all_tokens))
    places[all_tokens] = np.arange(len(all_tokens))
    followed = _follow(partition, chains, rank)
    return ChunkTable(
        chunk_tokens,
        copy_to_device(all_tokens, device),
        copy_to_device(places[:-1], device),
        filled=bool((all_tokens < partition.local_tokens).all()),
        padded=bool((places[:-1] == len(all_tokens)).any()),
        begins=groups[0],
        inner=groups[1],
        ends=groups[2],
        lengths={each: int(length[each]) for chain in followed for each in chain},
        chains=followed,
        beginning=frozenset(each for chain in followed for each in chain if not chains.before[each]),
        send=[_between(partition, chains, other, rank) for other in range(partition.ranks)],
        receive=[_between(partition, chains, rank, other) for other in range(partition.ranks)],
    )


def _follow(partition: Partition, chains: Chains, rank: int) -> list[list[int]]:
    segments, followed = partition.segments, []
    late = (segments.owner == rank) & chains.before
    for document in np.unique(segments.document[late]):
        of_document = np.flatnonzero(segments.document == document)
        last = np.flatnonzero(late & (segments.document == document))[-1]
        followed.append(of_document[of_document <= last].tolist())
    return followed


def _between(partition: Partition, chains: Chains, reader: int, owner: int) -> list[int]:
    read = chains.read[chains.reader == reader]
    return [int(each) for each in read[partition.segments.owner[read] == owner]]
