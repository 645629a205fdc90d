"""Recurrences in chunks of tokens: what a chunk's tokens do to each other at once, then chunk after chunk.

With h the state before a chunk, G the decays summed up to a token, and k, v, q its vectors:

    added values    u = values - erasing h        (erasing = 0 without the delta rule)
    outputs         o = scores u + exp(G) q h
    state after     exp(G_last) h + (exp(G_last - G) k)^T u

``values`` and ``erasing`` solve the triangular system of a chunk's delta rule (Yang et al., 2412.06464; 2510.26692).
All are computed in float32 or better. The same steps with values 0 and h = I give a segment's transition M.

One key head serves several heads, and is not repeated where a product does not need it: without the delta rule all
heads of a key head are one product.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ropewalk.recurrence.chunk_table import SegmentGroup
from ropewalk.recurrence.running_sum import running_sum
from ropewalk.shape.recurrences import Recurrence

GroupKeys = Float[Tensor, "chunks key_heads chunk key_dim"]
ChunkKeys = Float[Tensor, "chunks heads chunk key_dim"]
ChunkValues = Float[Tensor, "chunks heads chunk value_dim"]
ChunkDecay = Float[Tensor, "chunks heads chunk _"]
Between = Float[Tensor, "chunks heads chunk chunk"]
Kept = Float[Tensor, "chunks heads _ 1"]
State = Float[Tensor, "_ heads _ _"]
"""Of some segments, or of some chunks: [.., heads, key_dim, width]."""
Added = Float[Tensor, "_ heads chunk _"] | None
"""The values that the delta rule adds in some chunks; None without it."""
Step = Callable[[State], tuple[State, Added]]
"""The states after a chunk of each of some segments, given the states before it, and the values added."""


@dataclass(frozen=True, slots=True)
class Chunks(ABC):
    """See above; ``kept`` is exp(G_last), which multiplies the rows of a state."""

    values: ChunkValues
    scores: Between
    kept: Kept

    @abstractmethod
    def steps(self, group: SegmentGroup) -> list[Step]:
        """For each chunk of the group's segments, all of them at once.

        Each tensor is split once: to slice it at each step would make its gradient as large as all of it each time.
        """

    @abstractmethod
    def output(self, chosen: slice, states: State, added: Added) -> State:
        """Outputs of chunks, given the state before each and what ``steps`` added there."""

    def decays(self, group: SegmentGroup) -> list[Step]:
        """As ``steps``, of a number that the decays multiply."""
        return [partial(_multiply, each) for each in _split(self.kept, group)] if group.sizes else []


@dataclass(frozen=True, slots=True)
class AddingChunks(Chunks):
    """Without the delta rule: ``taken`` is what a chunk adds to its state, ``growth`` exp(G)."""

    taken: Float[Tensor, "chunks heads key_dim value_dim"]
    query: GroupKeys
    growth: ChunkDecay

    def steps(self, group: SegmentGroup) -> list[Step]:
        """See ``Chunks``."""
        if not group.sizes:
            return []
        columns = (_split(each, group) for each in (self.kept, self.taken))
        return [partial(_add, *each) for each in zip(*columns, strict=True)]

    def output(self, chosen: slice, states: State, added: Added) -> State:
        """See ``Chunks``."""
        read = self.growth[chosen] * _multiply_groups(self.query[chosen], states)
        return torch.baddbmm(
            read.flatten(0, 1), self.scores[chosen].flatten(0, 1), self.values[chosen].flatten(0, 1)
        ).view(read.shape)


@dataclass(frozen=True, slots=True)
class ErasingChunks(Chunks):
    """With the delta rule: ``reading`` is exp(G) q, ``fading`` exp(G_last - G) k."""

    erasing: ChunkKeys
    reading: ChunkKeys
    fading: ChunkKeys

    def steps(self, group: SegmentGroup) -> list[Step]:
        """See ``Chunks``."""
        if not group.sizes:
            return []
        columns = (_split(each, group) for each in (self.kept, self.fading, self.values, self.erasing))
        return [partial(_erase, *each) for each in zip(*columns, strict=True)]

    def output(self, chosen: slice, states: State, added: Added) -> State:
        """See ``Chunks``."""
        assert added is not None
        outputs: Tensor = self.scores[chosen] @ added + self.reading[chosen] @ states
        return outputs


def _split(rows: Float[Tensor, "chunks heads _ _"], group: SegmentGroup) -> tuple[Float[Tensor, "_ heads _ _"], ...]:
    # [chunks, heads, _, _] -> [chunks of a step, heads, _, _] of each step
    return tuple(rows[group.chunks].split(group.sizes))


def _multiply(kept: Float[Tensor, "_ heads _ 1"], state: State) -> tuple[State, Added]:
    return kept * state, None


def _add(kept: Float[Tensor, "_ heads _ 1"], taken: State, state: State) -> tuple[State, Added]:
    return torch.addcmul(taken, kept, state), None


def _erase(
    kept: Float[Tensor, "_ heads _ 1"],
    fading: Float[Tensor, "_ heads chunk key_dim"],
    values: Float[Tensor, "_ heads chunk value_dim"],
    erasing: Float[Tensor, "_ heads chunk key_dim"],
    state: State,
) -> tuple[State, Added]:
    wide = state.shape[-1] - values.shape[-1]  # a state [h | M] beside values [v | 0]
    values = functional.pad(values, (0, wide)) if wide else values
    added = values - erasing @ state
    return torch.addcmul(fading.transpose(-1, -2) @ added, kept, state), added


def make_chunks(
    query: GroupKeys,
    key: GroupKeys,
    value: ChunkValues,
    decay: ChunkDecay,
    beta: Float[Tensor, "chunks heads chunk 1"] | None,
    kind: Recurrence,
) -> Chunks:
    """What is independent of the states: slots without a token have zeros everywhere, and change nothing."""
    total = running_sum(decay, 2)
    last = total[:, :, -1:]
    growth, fade = total.exp(), (last - total).exp()
    kept = last.exp().transpose(-1, -2)
    if beta is None:
        scores, _ = _weigh(query, key, total, kind, erases=False)
        taken = _multiply_groups(key.transpose(-1, -2), fade * value)
        return AddingChunks(value, scores, kept, taken, query, growth)
    scores, between = _weigh(query, key, total, kind, erases=True)
    assert between is not None
    # [chunks, heads, chunk, value_dim] and [..., key_dim], solved together; only what lies below the diagonal is read
    sides = torch.cat([beta * value, _spread(key, beta * growth)], dim=-1)
    solved = torch.linalg.solve_triangular(beta * between, sides, upper=False, unitriangular=True)
    values, erasing = solved.split([value.shape[-1], key.shape[-1]], dim=-1)  # [chunks, heads, chunk, _]
    return ErasingChunks(values, scores, kept, erasing, _spread(query, growth), _spread(key, fade))


def _weigh(
    query: GroupKeys, key: GroupKeys, total: ChunkDecay, kind: Recurrence, *, erases: bool
) -> tuple[Between, Between | None]:
    """Products of earlier keys with later queries, with the decay between them, and of keys with later keys likewise.

    Entries above the diagonal are 0. The second is None unless the kind ``erases``.
    """
    tokens = total.shape[2]
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=total.device).triu(1)  # would overflow
    lefts = [query, key] if erases else [query]
    if kind.decay_per_key:
        # [chunks, heads, later, earlier, key_dim]
        between = (total.unsqueeze(3) - total.unsqueeze(2)).masked_fill(later[..., None], -torch.inf).exp()
        repeat = total.shape[1] // key.shape[1]
        lefts = [each.repeat_interleave(repeat, dim=1) for each in lefts]
        right = key.repeat_interleave(repeat, dim=1)
        found = [(left.unsqueeze(3) * between * right.unsqueeze(2)).sum(-1) for left in lefts]
    else:
        between = (total - total.transpose(-1, -2)).masked_fill(later, -torch.inf).exp()
        found = [_spread(left @ key.transpose(-1, -2), between) for left in lefts]
    return found[0], found[1] if erases else None


def _spread(
    rows: Float[Tensor, "chunks key_heads chunk _"], factor: ChunkDecay
) -> Float[Tensor, "chunks heads chunk _"]:
    """``rows`` of each key head times the ``factor`` of each of its heads."""
    spread: Tensor = rows.unsqueeze(2) * factor.unflatten(1, (rows.shape[1], -1))
    return spread.flatten(1, 2)


def _multiply_groups(
    left: Float[Tensor, "_ key_heads _ _"], right: Float[Tensor, "_ heads _ _"]
) -> Float[Tensor, "_ heads _ _"]:
    """The product of each key head's matrix with those of all its heads, as one product."""
    groups, width = left.shape[1], right.shape[-1]
    # [_, heads, rows, width] -> [_, key_heads, rows, heads of a key head * width]
    wide = right.unflatten(1, (groups, -1)).transpose(2, 3).flatten(3)
    product = (left @ wide).unflatten(3, (-1, width))
    apart: Tensor = product.transpose(2, 3).flatten(1, 2)
    return apart


def run_group(group: SegmentGroup, entry: State, steps: Sequence[Step]) -> tuple[State, State, Added]:
    """Chunk after chunk, all segments of a group at once: the state before each chunk and after each segment, and the
    values added in each chunk."""
    state, before, after, added = entry, [entry[:0]], [], []
    for size, step in zip(group.sizes, steps, strict=True):
        after.append(state[size:])  # segments that have no chunk left, the longest first
        state = state[:size]
        before.append(state)
        state, values = step(state)
        if values is not None:
            added.append(values)
    after.append(state)
    # [size, heads, chunk, _] of each step -> [chunks, ...]
    joined = torch.cat(added) if added else None
    # [size, heads, key_dim, _] of each step -> [chunks, ...]; of each step's ended ones -> [segments, ...]
    return torch.cat(before), torch.cat(after[::-1]), joined
