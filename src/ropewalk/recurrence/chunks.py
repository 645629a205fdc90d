"""Recurrences in chunks of tokens: what a chunk's tokens do to each other at once, then chunk after chunk.

With h the state before a chunk, G the decays summed up to a token, and k, v, q its vectors:

    added values    u = values - erasing h        (u = v without the delta rule)
    outputs         o = scores u + exp(G) q h
    state after     exp(G_last) h + (exp(G_last - G) k)^T u

All are computed in float32 or better. The same steps with values 0 and h = I give a segment's transition M. Each kind
has three parts: what its chunks do (delta_chunks.py, key_decay_chunks.py, adding_chunks.py), the walk over states
(walk_chunks.py), and the outputs (read_states.py). One key head serves several heads, and its products are made once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor

from ropewalk.recurrence.adding_chunks import AddingChunks
from ropewalk.recurrence.chunk_table import SegmentGroup
from ropewalk.recurrence.decay_powers import TotalDecay
from ropewalk.recurrence.delta_chunks import DeltaChunks
from ropewalk.recurrence.key_decay_chunks import KeyDecays, weigh_by_key
from ropewalk.recurrence.read_states import ChunkValues, GroupKeys, HeadKeys, ReadStates, Squares
from ropewalk.recurrence.running_sum import running_sum
from ropewalk.recurrence.walk_chunks import Added, ChunkStates, Entries, Kept, WalkAdding, WalkErasing
from ropewalk.shape.recurrences import Recurrence

Walked = tuple[ChunkStates, Added, Entries]
"""The state before each chunk, the values added in each, and the state after each segment."""


Vectors = tuple[GroupKeys, GroupKeys, ChunkValues, TotalDecay | KeyDecays, Float[Tensor, "chunks heads chunk 1"] | None]
"""Query, key, value, decay, and beta with the delta rule."""


Read = Callable[[ChunkValues, ChunkStates], ChunkValues]
"""Outputs, given the values of chunks and the state before each."""


@dataclass(frozen=True, slots=True)
class Chunks(ABC):
    """Of one group of segments; ``kept`` is exp(G_last), which multiplies the rows of a state.

    ``read`` makes outputs of what ``walk`` found: of the values added in each chunk and the state before it.
    """

    group: SegmentGroup
    kept: Kept
    read: Read

    @abstractmethod
    def walk(self, entry: Entries) -> Walked:
        """From the state before each segment."""

    def multiply_decays(self, entry: Entries) -> Entries:
        """Each number times the decays of its segment."""
        nothing = entry.new_zeros(len(self.kept), *entry.shape[1:])
        after: Entries = WalkAdding.apply(nothing, self.kept, entry, self.group.sizes)[1]
        return after


@dataclass(frozen=True, slots=True)
class _Adding(Chunks):
    """Without the delta rule."""

    value: ChunkValues
    taken: ChunkStates

    def walk(self, entry: Entries) -> Walked:
        before, after = WalkAdding.apply(self.taken, self.kept, entry, self.group.sizes)
        return before, self.value, after


@dataclass(frozen=True, slots=True)
class _Erasing(Chunks):
    """With the delta rule: ``fading`` is exp(G_last - G) k."""

    values: ChunkValues
    erasing: HeadKeys
    fading: HeadKeys

    def walk(self, entry: Entries) -> Walked:
        walked: Walked = WalkErasing.apply(self.values, self.erasing, self.fading, self.kept, entry, self.group.sizes)
        return walked


def make_chunks(vectors: Vectors, group: SegmentGroup, kind: Recurrence) -> Chunks:
    """What is independent of the states: slots without a token have zeros everywhere, and change nothing."""
    query, key, value, decay, beta = vectors
    total = running_sum(decay, 2)
    read = partial(ReadStates.apply, query, key, total)
    if beta is None:
        taken, kept = AddingChunks.apply(key, value, total)
        return _Adding(group, kept, read, value, taken)
    if not kind.decay_per_key:
        values, erasing, fading, kept = DeltaChunks.apply(key, value, total, beta)
        return _Erasing(group, kept, read, values, erasing, fading)
    scores, solved, reading, fading, kept = weigh_by_key(query, key, value, total, beta)
    values, erasing = solved.split([value.shape[-1], key.shape[-1]], dim=-1)  # [chunks, heads, chunk, _]
    return _Erasing(group, kept, partial(_read_weighed, scores, reading), values, erasing, fading)


def _read_weighed(scores: Squares, reading: HeadKeys, values: ChunkValues, states: ChunkStates) -> ChunkValues:
    """With a decay for each of the key's dimensions: ``reading`` is exp(G) q."""
    outputs: ChunkValues = scores @ values + reading @ states
    return outputs
