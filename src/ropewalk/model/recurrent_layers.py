"""Recurrent layers of hybrids over packed documents and context ranks: our forward in the model's own modules.

The classes of transformers run a recurrence over the whole sequence that they get, so packed documents leak into each
other there. A derived class computes the projections, gates and norms of the layer's own modules, and in between our
convolution and scan, with the partition of the batch. Each document is itself alone, on any number of ranks. Without a
partition the layer runs the forward of its own class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ropewalk.attention.differentiate_tiles import exact_dtype
from ropewalk.core.error import UserError
from ropewalk.model.architectures import attention_of, blocks_of, family_of, is_recurrent
from ropewalk.model.compiled import stay_outside
from ropewalk.partition import AnyPartition
from ropewalk.recurrence import convolve, scan

Hidden = Float[Tensor, "1 local width"]
_EPSILON = 1e-6
"""Of the length of queries and keys, as in all classes with the delta rule."""


class Place(NamedTuple):
    """Where a batch's tokens are: the partition and the ranks that share them."""

    partition: AnyPartition
    group: dist.ProcessGroup | None


class Projected(NamedTuple):
    """What a layer's own matrices make of its input, for the delta rule."""

    mixed: Float[Tensor, "local channels"]
    """Queries, keys and values of all heads, before the convolution."""
    gate: Float[Tensor, "local heads value_dim"]
    beta: Float[Tensor, "local heads"]
    step: Float[Tensor, "local heads"]
    """What the decay is made from."""


@dataclass(frozen=True, slots=True)
class Modules:
    """How a class with the delta rule names and arranges what its layer has."""

    project: Callable[[Any, Float[Tensor, "local width"]], Projected]
    norm: str = "norm"
    output: str = "out_proj"


def mix_documents(model: Any) -> None:
    """Make the recurrent layers of ``model`` keep documents apart, over all ranks that share a sequence.

    Modules' classes are replaced by derived ones, as in FSDP2; names of weights do not change. A model without
    recurrent layers stays as it is.
    """
    for block in blocks_of(model):
        if not is_recurrent(model, block):
            continue
        layer: Any = attention_of(model, block)
        if not isinstance(layer, RecurrentLayer):
            family = family_of(model)
            assert family is not None and family.recurrent is not None
            layer.__class__ = _derive(type(layer), family.recurrent.layout)  # type: ignore[arg-type]


@cache
def _derive(kind: type[nn.Module], layout: str) -> type[nn.Module]:
    """One class for all layers."""
    return type(kind.__name__, (GatedDeltaLayer, kind), {"modules_of": _LAYOUTS[layout]})


class RecurrentLayer(nn.Module):
    """Base class that comes before a recurrent layer's own class."""

    layer_idx: int

    @stay_outside
    def forward(
        self,
        hidden_states: Hidden,
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
        return self.mix(hidden_states[0], Place(partition, context_group))[None]

    def mix(self, hidden: Float[Tensor, "local width"], place: Place) -> Float[Tensor, "local width"]:
        """The layer's output for this rank's tokens of packed documents."""
        raise NotImplementedError


class GatedDeltaLayer(RecurrentLayer):
    """The gated delta rule after a short convolution of queries, keys and values (Yang et al., 2412.06464)."""

    modules_of: Modules
    conv1d: nn.Conv1d
    A_log: nn.Parameter
    dt_bias: nn.Parameter
    head_k_dim: int
    head_v_dim: int
    key_dim: int
    value_dim: int

    def mix(self, hidden: Float[Tensor, "local width"], place: Place) -> Float[Tensor, "local width"]:
        mixed, gate, beta, step = self.modules_of.project(self, hidden)
        exact = exact_dtype(mixed.dtype)
        mixed = functional.silu(_convolve(mixed, self.conv1d, place))
        # [local, channels] -> twice [local, key_heads * key_dim], [local, heads * value_dim]
        query, key, value = mixed.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
        query, key = (_normalise(each.to(exact).unflatten(-1, (-1, self.head_k_dim))) for each in (query, key))
        decay = -self.A_log.to(exact).exp() * functional.softplus(step.to(exact) + self.dt_bias.to(exact))
        output = scan(
            query * self.head_k_dim**-0.5,
            key,
            value.unflatten(-1, (-1, self.head_v_dim)),
            decay,
            beta.to(exact),
            kind="gated_delta",
            partition=place.partition,
            group=place.group,
        )
        norm, last = getattr(self, self.modules_of.norm), getattr(self, self.modules_of.output)
        # the class's norm takes all heads as one row
        normed = norm(output.flatten(0, 1), gate.flatten(0, 1)).view(len(hidden), -1)
        result: Tensor = last(normed)
        return result


def _convolve(
    rows: Float[Tensor, "local channels"], module: nn.Conv1d, place: Place
) -> Float[Tensor, "local channels"]:
    taps = module.weight.squeeze(1)  # [channels, 1, taps] -> [channels, taps]
    found = convolve(rows.to(taps.dtype), taps, module.bias, partition=place.partition, group=place.group)
    return found.to(rows.dtype)


def _normalise(vectors: Float[Tensor, "local heads key_dim"]) -> Float[Tensor, "local heads key_dim"]:
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + _EPSILON)


def _project_by_key_head(layer: Any, hidden: Float[Tensor, "local width"]) -> Projected:
    """Qwen3-Next: two matrices, whose rows are ordered by key heads; its class's own method puts them in order."""
    both = layer.in_proj_qkvz(hidden)[None], layer.in_proj_ba(hidden)[None]
    query, key, value, gate, beta, step = (each[0] for each in layer.fix_query_key_value_ordering(*both))
    # twice [local, key_heads, key_dim], [local, heads, value_dim] -> [local, channels]
    mixed = torch.cat([each.flatten(1) for each in (query, key, value)], dim=-1)
    return Projected(mixed, gate, beta.sigmoid(), step)


def _project_apart(layer: Any, hidden: Float[Tensor, "local width"]) -> Projected:
    """Qwen3.5: a matrix for each."""
    gate = layer.in_proj_z(hidden).unflatten(-1, (-1, layer.head_v_dim))
    return Projected(layer.in_proj_qkv(hidden), gate, layer.in_proj_b(hidden).sigmoid(), layer.in_proj_a(hidden))


_LAYOUTS: Mapping[str, Modules] = {
    "qwen3_next": Modules(_project_by_key_head),
    "qwen3_5": Modules(_project_apart),
}
