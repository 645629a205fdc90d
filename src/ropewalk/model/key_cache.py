"""Keys and values of a text that is being continued, kept on the context rank that computed them.

A prompt is read as in training, its tokens cut over the context ranks, and each rank keeps the keys and values of its
own tokens. Then every rank computes each new token; it attends to the keys that lie here, and the parts of all ranks
are merged by log-sum-exp. So a prompt of any length can be continued that could be read, and what travels per token and
layer is one query's output. New keys are kept by the ranks in turn.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from ropewalk.attention.merge import sink
from ropewalk.parallel.collective import max_over_ranks, sum_over_ranks

New = Int64[Tensor, "new"]
Kept = Float[Tensor, "kv_heads kept _"]
_LEAST_ROOM = 64
"""Tokens of new room beside an eighth of what is kept."""


class _Kept:
    """The keys and values of one prompt in one layer, heads first, with room for more: [kv_heads, room, _] each."""

    def __init__(self, key: Kept, value: Kept) -> None:
        self.tokens = key.shape[1]
        self._fields = [key, value]

    def append(self, *new: Float[Tensor, "kv_heads _"]) -> None:
        """Add one token's key and value. Room grows by an eighth and 64 tokens, so few appends copy."""
        if self.tokens == self._fields[0].shape[1]:
            # [kv_heads, room, _] -> [kv_heads, more than room, _]
            self._fields = [pad(field, (0, 0, 0, self.tokens // 8 + _LEAST_ROOM)) for field in self._fields]
        for field, one in zip(self._fields, new, strict=True):
            field[:, self.tokens] = one
        self.tokens += 1

    def shorten(self, tokens: int) -> None:
        """Forget all but the first ``tokens``."""
        self.tokens = min(tokens, self.tokens)

    def read(self) -> tuple[Kept, Kept]:
        """The keys and values of all tokens."""
        key, value = self._fields
        return key[:, : self.tokens], value[:, : self.tokens]


class KeyCache:
    """The cache of this rank for the prompts of one packed sequence; it is given to the model's forward.

    ``documents`` and ``positions`` [local] are those of the tokens that this rank reads; -1 is padding. Keys of each
    prompt lie together, so a new token reads those of its own prompt only.
    """

    def __init__(
        self,
        documents: Int64[Tensor, "local"],
        positions: Int64[Tensor, "local"],
        *,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        numbers = [number for number in documents.unique().tolist() if number >= 0]
        self._places = {number: (documents == number).nonzero()[:, 0] for number in numbers}
        self._positions = {number: positions[place] for number, place in self._places.items()}
        self._kept: dict[tuple[int, int], _Kept] = {}
        self._group = group
        self._rank, self._ranks = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        self._asked: list[tuple[int, int]] = []
        self._steps = 0

    def begin_step(self, documents: New, positions: New) -> None:
        """The next forward computes one new token of each of ``documents``, at ``positions``."""
        self._asked = list(zip(documents.tolist(), positions.tolist(), strict=True))
        self._steps += 1
        if self._keeps_new:
            for (number, _), place in zip(self._asked, positions, strict=True):
                before = self._positions.get(number, positions[:0])
                self._positions[number] = torch.cat((before, place[None]))  # [kept] + [1] -> [kept + 1]

    def forget(self, number: int, position: int) -> None:
        """Forget a prompt from ``position`` on: the part of a draft that the model would not have written."""
        if (before := self._positions.get(number)) is not None:
            tokens = int((before < position).sum())
            assert bool((before[:tokens] < position).all()), "a rank's tokens of a prompt are in order"
            self._positions[number] = before[:tokens]
            for (_, kept_number), kept in self._kept.items():
                if kept_number == number:
                    kept.shorten(tokens)

    @property
    def _keeps_new(self) -> bool:
        return self._steps % self._ranks == self._rank

    def keep(
        self,
        layer: int,
        key: Float[Tensor, "local kv_heads head_dim"],
        value: Float[Tensor, "local kv_heads value_dim"],
    ) -> None:
        """Keep the keys and values of a layer for the tokens that this rank has read.

        On a CPU in float32, in which they are multiplied: to convert them for each new token doubled its time.
        """
        for number, place in self._places.items():
            own = (field[place].transpose(0, 1).contiguous() for field in (key, value))
            self._kept[layer, number] = _Kept(
                *(field.float() if field.device.type == "cpu" else field for field in own)
            )

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "new heads head_dim"],
        key: Float[Tensor, "new kv_heads head_dim"],
        value: Float[Tensor, "new kv_heads value_dim"],
        *,
        window_tokens: int | None,
        settings: dict[str, Any],
    ) -> Float[Tensor, "new heads value_dim"]:
        """The attention of the new tokens to all earlier tokens of their documents, over all ranks."""
        new, heads, width = query.shape
        grouped = query.float().view(new, key.shape[1], -1, width) * settings["scaling"]
        # per row: the largest score, and the sums of weights x values and of weights below it
        most = grouped.new_full((*grouped.shape[:3], 1), -torch.inf)
        sums = grouped.new_zeros((*grouped.shape[:3], value.shape[-1] + 1))
        for row, (number, position) in enumerate(self._asked):
            if self._keeps_new:
                if (layer, number) not in self._kept:
                    empty = (field[row][:, None][:, :0] for field in (key, value))
                    self._kept[layer, number] = _Kept(*empty)
                self._kept[layer, number].append(key[row], value[row])
            kept = self._kept.get((layer, number))
            if kept is not None:
                first = None if window_tokens is None else position - window_tokens + 1
                most[row], sums[row] = self._attend_row(grouped[row], kept, number, first, settings.get("softcap"))
        largest = max_over_ranks(most[..., 0].double(), group=self._group)  # [new, kv_heads, group]
        scale = torch.exp(most[..., 0].double() - largest)
        total = sum_over_ranks(sums.double() * scale[..., None], group=self._group)
        output = (total[..., :-1] / total[..., -1:]).reshape(new, heads, -1)
        logsum = (largest + total[..., -1].log()).reshape(new, heads)
        if (sinks := settings.get("s_aux")) is not None:
            output, _ = sink(output, logsum, sinks)
        return output.to(query.dtype)

    def _attend_row(
        self,
        query: Float[Tensor, "kv_heads group head_dim"],
        kept: _Kept,
        number: int,
        first: int | None,
        cap: float | None,
    ) -> tuple[Float[Tensor, "kv_heads group 1"], Float[Tensor, "kv_heads group _"]]:
        """The part of one new token here: its largest score, and weighted values with the sum of the weights."""
        key, value = (field.float() for field in kept.read())
        scores = query @ key.transpose(1, 2)  # [kv_heads, group, kept]
        if cap is not None:
            scores = cap * torch.tanh(scores / cap)
        if first is not None:
            scores = scores.masked_fill(self._positions[number] < first, -torch.inf)
        most = scores.amax(-1, keepdim=True)
        weights = torch.exp(scores - most.clamp(min=torch.finfo(scores.dtype).min))  # a window may see nothing here
        # [kv_heads, group, value_dim] + [kv_heads, group, 1] -> [kv_heads, group, value_dim + 1]
        return most, torch.cat((weights @ value, weights.sum(-1, keepdim=True)), dim=-1)
