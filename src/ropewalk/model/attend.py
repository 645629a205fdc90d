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
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ropewalk.attention import attend
from ropewalk.partition import Partition

NAME = "ropewalk"


class PromisedMask:
    """A mask that is made when first asked for, and then shared by all layers of one forward."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._make = partial(sdpa_mask, **arguments)
        self._made: tuple[Tensor | None] | None = None

    def make(self) -> Tensor | None:
        if self._made is None:
            self._made = (self._make(),)
        return self._made[0]


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
    partition: Partition | None = None,
    context_group: dist.ProcessGroup | None = None,
    **settings: Any,
) -> tuple[Float[Tensor, "rows tokens heads head_dim"], None]:
    """Attention of one layer, called by transformers; ``partition`` and ``context_group`` come with the forward.

    With a partition there is one row: this rank's tokens of all rows, in the partition's order.
    """
    if partition is None:
        mask = attention_mask.make() if isinstance(attention_mask, PromisedMask) else attention_mask
        output, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **settings)
        return output, None
    assert len(query) == 1 and not settings.get("dropout")
    flat = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    output = attend(*flat, partition=partition, group=context_group, scale=settings["scaling"])
    return output[None], None


AttentionInterface.register(NAME, attend_layer)
AttentionMaskInterface.register(NAME, promise_mask)
