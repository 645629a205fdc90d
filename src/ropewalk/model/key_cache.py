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

from ropewalk.attention.merge import sink
from ropewalk.parallel.collective import max_over_ranks, sum_over_ranks

New = Int64[Tensor, "new"]


class KeyCache:
    """The cache of this rank for the prompts of one packed sequence; it is given to the model's forward.

    ``documents`` and ``positions`` [local] are those of the tokens that this rank reads; -1 is padding.
    """

    def __init__(
        self,
        documents: Int64[Tensor, "local"],
        positions: Int64[Tensor, "local"],
        *,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._documents, self._positions = documents, positions
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._group = group
        self._rank, self._ranks = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        self._asked: tuple[New, New] | None = None
        self._steps = 0

    def begin_step(self, documents: New, positions: New) -> None:
        """The next forward computes one new token of each of ``documents``, at ``positions``."""
        self._asked = documents, positions
        self._steps += 1
        if self._keeps_new:
            # twice [local] + [new] -> [local + new]
            self._documents = torch.cat((self._documents, documents))
            self._positions = torch.cat((self._positions, positions))  # [local + new]

    @property
    def _keeps_new(self) -> bool:
        return self._steps % self._ranks == self._rank

    def keep(
        self,
        layer: int,
        key: Float[Tensor, "local kv_heads head_dim"],
        value: Float[Tensor, "local kv_heads value_dim"],
    ) -> None:
        """Keep the keys and values of a layer for the tokens that this rank has read."""
        self._kept[layer] = key, value

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
        assert self._asked is not None
        keys, values = self._kept[layer]
        if self._keeps_new:
            keys, values = torch.cat((keys, key)), torch.cat((values, value))  # [local + new, kv_heads, _]
            self._kept[layer] = keys, values
        documents, positions = self._asked
        seen = self._documents == documents[:, None]  # [new, local]
        if window_tokens is not None:
            seen &= self._positions > (positions - window_tokens)[:, None]
        new, heads, width = query.shape
        grouped = query.float().view(new, keys.shape[1], -1, width)
        scores = torch.einsum("nkgd,tkd->nkgt", grouped, keys.float()) * settings["scaling"]
        if (cap := settings.get("softcap")) is not None:
            scores = cap * torch.tanh(scores / cap)
        scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
        most = max_over_ranks(scores.amax(-1).double(), group=self._group)  # [new, kv_heads, group]
        weights = torch.exp(scores - most[..., None].float())
        parts = torch.einsum("nkgt,tkd->nkgd", weights, values.float())
        # [new, heads, group, width] + [new, heads, group, 1] -> [new, heads, group, width + 1]
        own = torch.cat((parts, weights.sum(-1, keepdim=True)), dim=-1)
        total = sum_over_ranks(own.double(), group=self._group)
        output = (total[..., :-1] / total[..., -1:]).reshape(new, heads, -1)
        logsum = (most + total[..., -1].log()).reshape(new, heads)
        if (sinks := settings.get("s_aux")) is not None:
            output, _ = sink(output, logsum, sinks)
        return output.to(query.dtype)
