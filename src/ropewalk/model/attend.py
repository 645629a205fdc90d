"""Our attention behind transformers' own door: a registered name, and keyword arguments of the model's forward.

With a partition the rows of this rank are one packed sequence and attention runs over documents and context ranks.
Without one (a plain call, ``generate``) it is transformers' SDPA, so a loaded model works everywhere. The surprise is
the mask: the model asks for it before it knows whether anyone needs it, and for packed positions it would be a matrix
of all pairs. So the registered mask is only a promise, and attention with a partition never calls it in.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import and_masks, causal_mask_function, sdpa_mask, sliding_window_overlay
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ropewalk.attention import attend
from ropewalk.attention.flex import attend_biased
from ropewalk.core.error import UserError
from ropewalk.model.biases import NAME as BIAS
from ropewalk.partition import AnyPartition, Partition

NAME = "ropewalk"


class PromisedMask:
    """A mask that is made when first asked for, and then shared by all layers of one forward that look as far."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._made: dict[int | None, Tensor | None] = {}

    def make(self, window_tokens: int | None = None) -> Tensor | None:
        """The mask, cut to the last ``window_tokens`` keys where a layer has a window that its class does not know."""
        if window_tokens not in self._made:
            make = partial(sdpa_mask, **self._arguments)
            if window_tokens is not None:
                whole = self._arguments.get("mask_function", causal_mask_function)
                # local_size tells transformers when the window reaches over all keys, and needs no mask.
                make = partial(
                    make,
                    mask_function=and_masks(whole, sliding_window_overlay(window_tokens)),
                    local_size=window_tokens,
                )
            self._made[window_tokens] = make()
        return self._made[window_tokens]


def promise_mask(**arguments: Any) -> PromisedMask:
    """What transformers calls to get a mask for the name ``ropewalk``."""
    return PromisedMask(arguments)


def attend_layer(
    module: nn.Module,
    query: Float[Tensor, "rows heads tokens head_dim"],
    key: Float[Tensor, "rows kv_heads keys head_dim"],
    value: Float[Tensor, "rows kv_heads keys head_dim"],
    attention_mask: PromisedMask | Tensor | None,
    *,
    partition: AnyPartition | None = None,
    context_group: dist.ProcessGroup | None = None,
    **settings: Any,
) -> tuple[Float[Tensor, "rows tokens heads head_dim"], None]:
    """Attention of one layer, called by transformers; ``partition`` and ``context_group`` come with the forward.

    With a partition there is one row: this rank's tokens of all rows, in the partition's order. ``settings`` are
    transformers' own (``scaling``, ``sliding_window``), and where model/positions directs the layer ``window_tokens``
    and ``query_temperature`` [rows, tokens], which its queries are multiplied by.
    """
    window_tokens: int | None = settings.pop("window_tokens", None)
    temperature: Float[Tensor, "rows tokens"] | None = settings.pop("query_temperature", None)
    if temperature is not None:
        query = (query * temperature[:, None, :, None]).to(query.dtype)
    bias = getattr(module, BIAS, None)
    if partition is None:
        if bias is not None:
            raise UserError(
                "a layer with a bias runs over documents that it is told",
                where="the model's forward",
                why="transformers' own attention has no place for a bias",
                fix="pass partition= and position_ids, as model/learner does",
            )
        mask = attention_mask.make(window_tokens) if isinstance(attention_mask, PromisedMask) else attention_mask
        assert window_tokens is None or isinstance(attention_mask, PromisedMask), (
            "a made mask cannot be cut to a window"
        )
        output, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **settings)
        return output, None
    assert len(query) == 1 and not settings.get("dropout")
    assert key.shape[2] == query.shape[2], "a cache holds keys that the partition does not know"
    flat = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    seen = partition.with_window(window_tokens or settings.get("sliding_window"))
    if bias is not None:
        assert isinstance(seen, Partition), "recipe/check refuses a bias whose rows are shared"
        places = settings["position_ids"][0]
        output = attend_biased(*flat, bias=bias, positions=places, partition=seen, scale=settings["scaling"])
    else:
        output = attend(*flat, partition=seen, group=context_group, scale=settings["scaling"])
    return output[None], None


AttentionInterface.register(NAME, attend_layer)
AttentionMaskInterface.register(NAME, promise_mask)
