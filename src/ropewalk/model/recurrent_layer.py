"""The forward of a recurrent layer over packed documents and context ranks; what kinds of layers share.

A derived class computes the projections, gates and norms of the layer's own modules, and in between our convolution and
scan, with the partition of the batch. Each document is itself alone, on any number of ranks. Without a partition the
layer runs the forward of its own class.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from ropewalk.core.error import UserError
from ropewalk.model.compiled import stay_outside
from ropewalk.partition import AnyPartition
from ropewalk.recurrence import convolve, scan

Hidden = Float[Tensor, "local width"]


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """A rank's tokens of packed documents: its part of a partition, and the ranks that have the others."""

    partition: AnyPartition
    group: dist.ProcessGroup | None

    def convolve(
        self,
        rows: Float[Tensor, "local channels"],
        module: nn.Conv1d,
    ) -> Float[Tensor, "local channels"]:
        """The causal convolution that ``module`` has the weights of, within documents, in the dtype of ``rows``."""
        taps = module.weight.squeeze(1)  # [channels, 1, taps] -> [channels, taps]
        found = convolve(rows.to(taps.dtype), taps, module.bias, partition=self.partition, group=self.group)
        return found.to(rows.dtype)

    def scan(self, *vectors: Float[Tensor, "..."], kind: str) -> Float[Tensor, "local heads value_dim"]:
        """The recurrence ``kind`` within documents; ``vectors`` are those of ``recurrence.scan``."""
        return scan(*vectors, kind=kind, partition=self.partition, group=self.group)


class RecurrentLayer(nn.Module, ABC):
    """Base class that comes before a recurrent layer's own class."""

    layer_idx: int

    @stay_outside
    def forward(
        self,
        hidden_states: Float[Tensor, "rows tokens width"],
        *args: Any,
        partition: AnyPartition | None = None,
        context_group: dist.ProcessGroup | None = None,
        key_cache: Any = None,
        **settings: Any,
    ) -> Any:
        """The layer's output for this rank's tokens, [1, local, width]; that of its own class without a partition.

        Raises UserError for text that is written token after token with a cache of keys.
        """
        if key_cache is not None:
            raise UserError(
                "a model with recurrent layers cannot write text",
                where=f"layer {self.layer_idx}",
                why="the cache keeps keys and values, and not the states of recurrent layers",
                fix="leave evaluate.ruler out",
            )
        if partition is None:
            return super().forward(hidden_states, *args, **settings)
        assert len(hidden_states) == 1, "a rank's tokens of all rows are one row"
        return self.mix(hidden_states[0], PackedTokens(partition, context_group))[None]

    @abstractmethod
    def mix(self, hidden: Hidden, tokens: PackedTokens) -> Hidden:
        """The layer's output for this rank's tokens of packed documents."""
