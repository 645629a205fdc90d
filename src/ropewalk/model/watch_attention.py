"""What each layer of a model hands to its attention, and attention over sequences that are cut into rows.

A trial needs two context ranks in one process. A batch with one row for each rank does it: within a layer, rows do not
see each other, as ranks do not. Only attention may join them, so this one puts the tokens of all rows in their order,
attends, and divides the output again. Whatever else in a class mixes tokens then gives other results than one row.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ropewalk.core.hold_last import hold_last
from ropewalk.model.attention_interface import PromisedMask, attend_layer, promise_mask
from ropewalk.partition import AnyPartition

WATCHED = "ropewalk_watched"


@dataclass
class LayerCall:
    """One layer's call of its attention: the module that called, its queries and keys, and its options."""

    module: nn.Module
    query: Float[Tensor, "heads tokens head_dim"]
    key: Float[Tensor, "kv_heads tokens head_dim"]
    settings: dict[str, Any]
    mask_window: int | None

    @property
    def window_tokens(self) -> int | None:
        """The window that the layer passes on."""
        window: int | None = self.settings.get("sliding_window")
        return window


@dataclass
class Watch:
    """The calls of a forward, first layer to last. ``places`` [rows, tokens] are the tokens' in ``partition``."""

    partition: AnyPartition
    places: Int64[Tensor, "rows tokens"]
    calls: list[LayerCall] = field(default_factory=list)


_watching: list[Watch] = []


def watch_attention(partition: AnyPartition, places: Int64[Tensor, "rows tokens"]) -> AbstractContextManager[Watch]:
    """Watch the forward of a model with the attention ``WATCHED`` in this context."""
    return hold_last(_watching, Watch(partition, places))


def attend_watched(
    module: nn.Module,
    query: Float[Tensor, "rows heads tokens head_dim"],
    key: Float[Tensor, "rows kv_heads tokens head_dim"],
    value: Float[Tensor, "rows kv_heads tokens value_dim"],
    attention_mask: Any,
    **settings: Any,
) -> tuple[Float[Tensor, "rows tokens heads value_dim"], None]:
    """Attention of one layer over the tokens of all rows, called by transformers."""
    watch, rows = _watching[-1], len(query)
    order = watch.places.flatten().argsort()

    def join(tensor: Float[Tensor, "rows heads tokens dim"]) -> Float[Tensor, "1 heads all dim"]:
        # [rows, heads, tokens, dim] -> [heads, rows x tokens, dim] in the order of places
        return tensor.transpose(0, 1).flatten(1, 2)[:, order][None]

    query, key, value = join(query), join(key), join(value)
    window = attention_mask.window_tokens if isinstance(attention_mask, PromisedMask) else None
    watch.calls.append(LayerCall(module, query[0], key[0], settings, window))
    told = {name: each for name, each in settings.items() if name not in ("partition", "context_group")}
    output, _ = attend_layer(module, query, key, value, attention_mask, partition=watch.partition, **told)
    apart = torch.empty_like(output[0])
    apart[order] = output[0]
    return apart.unflatten(0, (rows, -1)), None  # [rows x tokens, heads, dim] -> [rows, tokens, heads, dim]


AttentionInterface.register(WATCHED, attend_watched)
AttentionMaskInterface.register(WATCHED, promise_mask)
