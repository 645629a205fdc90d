"""Recurrences in chunks of tokens: what a chunk's tokens do to each other at once, then chunk after chunk.

With h the state before a chunk, G the decays summed up to a token, and k, v, q its vectors:

    added values    u = values - erasing h        (erasing = 0 without the delta rule)
    outputs         o = scores u + reading h
    state after     exp(G_last) h + fading^T u

``values`` and ``erasing`` solve the triangular system of a chunk's delta rule (Yang et al., 2412.06464; 2510.26692).
All are computed in float32 or better. The same steps with values 0 and h = I give a segment's transition M.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ropewalk.recurrence.chunk_table import SegmentGroup
from ropewalk.shape.recurrences import Recurrence

ChunkKeys = Float[Tensor, "chunks heads chunk key_dim"]
ChunkValues = Float[Tensor, "chunks heads chunk value_dim"]
ChunkDecay = Float[Tensor, "chunks heads chunk _"]
State = Float[Tensor, "_ heads _ _"]
"""Of some segments, or of some chunks: [.., heads, key_dim, width]."""
Step = Callable[[State], State]
"""The states after a chunk of each of some segments, given the states before it."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """See above; ``kept`` is exp(G_last), which multiplies the rows of a state."""

    values: ChunkValues
    erasing: ChunkKeys | None
    scores: Float[Tensor, "chunks heads chunk chunk"]
    reading: ChunkKeys
    fading: ChunkKeys
    kept: Float[Tensor, "chunks heads _ 1"]

    def steps(self, group: SegmentGroup) -> list[Step]:
        """For each chunk of the group's segments, all of them at once: the states after it, given those before.

        Each tensor is split once: to slice it at each step would make its gradient as large as all of it each time.
        """
        if not group.sizes:
            return []
        kept = self._split(self.kept, group)
        if self.erasing is None:
            added = self._split(self.fading.transpose(-1, -2) @ self.values, group)
            return [partial(_add, *each) for each in zip(kept, added, strict=True)]
        columns = (self._split(each, group) for each in (self.fading, self.values, self.erasing))
        return [partial(_erase, *each) for each in zip(kept, *columns, strict=True)]

    def decays(self, group: SegmentGroup) -> list[Step]:
        """As ``steps``, of a number that the decays multiply."""
        return [partial(torch.mul, each) for each in self._split(self.kept, group)] if group.sizes else []

    def _split(
        self, rows: Float[Tensor, "chunks heads _ _"], group: SegmentGroup
    ) -> tuple[Float[Tensor, "_ heads _ _"], ...]:
        # [chunks, heads, _, _] -> [chunks of a step, heads, _, _] of each step
        return tuple(rows[group.chunks].split(group.sizes))

    def output(self, chosen: slice, states: State) -> State:
        """Outputs of chunks, given the state before each."""
        value = self.values[chosen]
        added = value if self.erasing is None else value - self.erasing[chosen] @ states
        outputs: Tensor = self.scores[chosen] @ added + self.reading[chosen] @ states
        return outputs


def _add(kept: Float[Tensor, "_ heads _ 1"], added: State, state: State) -> State:
    after: Tensor = kept * state + added
    return after


def _erase(
    kept: Float[Tensor, "_ heads _ 1"],
    fading: Float[Tensor, "_ heads chunk key_dim"],
    values: Float[Tensor, "_ heads chunk value_dim"],
    erasing: Float[Tensor, "_ heads chunk key_dim"],
    state: State,
) -> State:
    wide = state.shape[-1] - values.shape[-1]  # a state [h | M] beside values [v | 0]
    values = functional.pad(values, (0, wide)) if wide else values
    after: Tensor = kept * state + fading.transpose(-1, -2) @ (values - erasing @ state)
    return after


def make_chunks(
    query: ChunkKeys,
    key: ChunkKeys,
    value: ChunkValues,
    decay: ChunkDecay,
    beta: Float[Tensor, "chunks heads chunk 1"] | None,
    kind: Recurrence,
) -> Chunks:
    """What is independent of the states: slots without a token have zeros everywhere, and change nothing."""
    total = decay.cumsum(2)
    last = total[:, :, -1:]
    reading, fading = query * total.exp(), key * (last - total).exp()
    scores = _weigh(query, key, total, kind).tril()
    kept = last.exp().transpose(-1, -2)
    if beta is None:
        return Chunks(value, None, scores, reading, fading, kept)
    system = (_weigh(key, key, total, kind) * beta).tril(-1)
    # [chunks, heads, chunk, value_dim] and [..., key_dim], solved together
    sides = torch.cat([beta * value, beta * key * total.exp()], dim=-1)
    solved = torch.linalg.solve_triangular(system, sides, upper=False, unitriangular=True)
    values, erasing = solved.split([value.shape[-1], key.shape[-1]], dim=-1)  # [chunks, heads, chunk, _]
    return Chunks(values, erasing, scores, reading, fading, kept)


def _weigh(
    left: ChunkKeys, right: ChunkKeys, total: ChunkDecay, kind: Recurrence
) -> Float[Tensor, "chunks heads chunk chunk"]:
    """Products of earlier keys with later vectors, with the decay between them; entries above the diagonal are any."""
    if kind.decay_per_key:
        # [chunks, heads, later, earlier, key_dim]; later than the reader would overflow
        between = (total.unsqueeze(3) - total.unsqueeze(2)).clamp(max=0).exp()
        weighed: Tensor = (left.unsqueeze(3) * between * right.unsqueeze(2)).sum(-1)
        return weighed
    between = (total - total.transpose(-1, -2)).clamp(max=0).exp()
    return left @ right.transpose(-1, -2) * between


def run_group(group: SegmentGroup, entry: State, steps: Sequence[Step]) -> tuple[State, State]:
    """Chunk after chunk, all segments of a group at once: the state before each chunk, and after each segment."""
    state, before, after = entry, [entry[:0]], []
    for size, step in zip(group.sizes, steps, strict=True):
        after.append(state[size:])  # segments that have no chunk left, the longest first
        state = state[:size]
        before.append(state)
        state = step(state)
    after.append(state)
    # [size, heads, key_dim, _] of each step -> [chunks, ...]; of each step's ended ones -> [segments, ...]
    return torch.cat(before), torch.cat(after[::-1])
