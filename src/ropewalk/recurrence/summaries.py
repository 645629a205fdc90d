"""Ranks exchange what a segment does to a state, (M, U), and compose it along each document.

One all-to-all sends each summary to the ranks that need it, in float32 or better, and one sends the gradients back. A
rank starts it, computes on segments that begin their document, and waits. Both ways a rank takes part even where it
sends and receives nothing: else the others would wait for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ropewalk.recurrence.chunk_table import ChunkTable
from ropewalk.shape.recurrences import Recurrence

Flat = Float[Tensor, "_"]
"""Numbers of summaries, one after the other."""
HeadState = Float[Tensor, "heads key_dim value_dim"]
Transition = Float[Tensor, "heads _ _"]
"""M: [heads, key_dim, key_dim], or [heads, 1, 1] for a number."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a segment does: h becomes ``transition`` h + ``state``; a segment that begins its document has no M."""

    state: HeadState
    transition: Transition | None

    def apply(self, before: HeadState) -> HeadState:
        """The state behind the segment."""
        if self.transition is None:
            return self.state
        by_number = self.transition.shape[-1] == 1 and before.shape[-2] > 1
        after: Tensor = (self.transition * before if by_number else self.transition @ before) + self.state
        return after


@dataclass(slots=True)
class _Message:
    """One exchange on its way: numbers for each rank and from each, and what must be waited for."""

    send_numbers: list[int]
    receive_numbers: list[int]
    group: dist.ProcessGroup
    work: Any = None
    alive: Flat | None = None
    gradients: Flat | None = None
    """Of what this rank sent; on their way until ``wait``."""

    def start(self, outgoing: Flat, *, back: bool) -> Flat:
        there, here = self.receive_numbers, self.send_numbers
        if back:
            there, here = here, there
        self.alive = outgoing.contiguous()
        incoming = outgoing.new_empty(sum(there))
        self.work = dist.all_to_all_single(incoming, self.alive, there, here, group=self.group, async_op=True)
        return incoming

    def wait(self) -> None:
        self.work.wait()
        self.alive = None


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outgoing: Flat, message: _Message) -> Flat:
        ctx.message = message
        return message.start(outgoing, back=False)

    @staticmethod
    def backward(ctx: Any, grad: Flat) -> tuple[Flat, None]:
        ctx.message.wait()
        return ctx.message.gradients, None


class _Finish(torch.autograd.Function):
    """Begins the gradients' way back; ``_Start`` waits for them, in the message: theirs is another number."""

    @staticmethod
    def forward(ctx: Any, incoming: Flat, message: _Message) -> Flat:
        ctx.message = message
        message.wait()
        return incoming.view_as(incoming)

    @staticmethod
    def backward(ctx: Any, grad: Flat) -> tuple[Flat, None]:
        ctx.message.gradients = ctx.message.start(grad, back=True)
        return grad, None


class Join(torch.autograd.Function):
    """Makes a result depend on the received summaries: so each rank's backward sends gradients, also of unused ones."""

    @staticmethod
    def forward(ctx: Any, result: Float[Tensor, "..."], arrived: Flat) -> Float[Tensor, "..."]:
        ctx.save_for_backward(arrived)
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Flat]:
        (arrived,) = ctx.saved_tensors
        return grad, torch.zeros_like(arrived)


class SummaryExchange:
    """The summaries of one layer's call; made when it starts to send those of this rank."""

    def __init__(
        self,
        own: Mapping[int, Summary],
        *,
        table: ChunkTable,
        kind: Recurrence,
        like: HeadState,
        tie: Flat,
        group: dist.ProcessGroup,
    ) -> None:
        heads, key_dim, _ = like.shape
        self._table, self._kind, self._own, self._like = table, kind, own, like
        self._heads, self._key_dim = heads, key_dim

        beginning = table.beginning | set(table.begins.segments)

        def count(segments: list[int]) -> int:
            return sum(kind.summary_numbers(*like.shape, begins=each in beginning) for each in segments)

        self._message = _Message([count(each) for each in table.send], [count(each) for each in table.receive], group)
        # [heads, key_dim, value_dim] and M of each summary for each rank -> [numbers]. ``tie`` has none, but a graph:
        # so this rank's backward takes part.
        parts = [tie]
        for segments in table.send:
            for each in segments:
                parts.append(own[each].state.reshape(-1))
                if each not in beginning and kind.transition != "length":
                    transition = own[each].transition
                    assert transition is not None
                    parts.append(transition.reshape(-1))
        outgoing = torch.cat(parts)  # [numbers]
        self._moving = _Start.apply(outgoing, self._message)

    def finish(self, decay: Float[Tensor, "heads"] | None) -> tuple[dict[int, HeadState], Flat]:
        """The state before each of this rank's segments that do not begin a document, and all numbers that arrived."""
        arrived: Tensor = _Finish.apply(self._moving, self._message)
        table, known, at = self._table, dict(self._own), 0
        heads, key_dim, shape = self._heads, self._key_dim, self._like.shape
        for segments in table.receive:
            for each in segments:
                state, transition = arrived[at : at + self._like.numel()].view(shape), None
                at += self._like.numel()
                if each not in table.beginning:
                    numbers = self._kind.transition_numbers(heads, key_dim)
                    if numbers:
                        transition = arrived[at : at + numbers].view(heads, numbers // heads, 1)
                        transition = transition.view(heads, key_dim, -1) if self._kind.erases else transition
                    else:
                        assert decay is not None
                        transition = (decay * table.lengths[each]).exp()[:, None, None]
                    at += numbers
                known[each] = Summary(state, transition)
        return _compose(table, known, self._like), arrived


def _compose(table: ChunkTable, known: Mapping[int, Summary], like: HeadState) -> dict[int, HeadState]:
    entries = {}
    for chain in table.chains:
        state = torch.zeros_like(like)
        for each in chain:
            if each in table.own:
                entries[each] = state
            if each != chain[-1]:
                state = known[each].apply(state)
    return entries
