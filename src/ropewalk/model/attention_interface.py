"""Our attention in transformers' interface: a registered name, and keyword arguments of the model's forward.

With a partition, the tokens of this rank are one packed sequence, and attention runs over documents and context ranks.
Without one (a plain call, ``generate``) it is transformers' SDPA, so a loaded model works everywhere. The model asks
for a mask before it is clear whether a layer needs one, and for packed positions the mask would be a matrix of all
pairs. So the registered mask is only a promise; attention with a partition never builds it. Requests of a transformers
class that we do not support raise a UserError with their name; they are never ignored.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import and_masks, causal_mask_function, sdpa_mask, sliding_window_overlay
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ropewalk.attention import attend, attend_latents
from ropewalk.attention.flex import attend_biased
from ropewalk.attention.latents import Latents
from ropewalk.core.error import UserError
from ropewalk.core.hold_last import hold_last
from ropewalk.model.biases import NAME as BIAS
from ropewalk.model.compiled import stay_outside
from ropewalk.model.key_cache import KeyCache
from ropewalk.model.latent_attention import LatentAttention
from ropewalk.model.needle_attention import WATCHED_NEEDLES
from ropewalk.partition import AnyPartition, Partition

if TYPE_CHECKING:
    from ropewalk.attention.bias import Alibi, Fire

NAME = "ropewalk"

Mask = Shaped[Tensor, "#rows #heads tokens keys"] | Shaped[Tensor, "0 0 0 0"]
_Asked = Callable[[Any], bool]
_UNDONE: Mapping[str, tuple[_Asked, str]] = {
    "position_bias": (lambda asked: asked is not None, "a bias of attention scores that the model makes itself"),
    "dropout": (bool, "attention dropout, which cannot be drawn identically on all context ranks"),
    "is_causal": (lambda asked: asked is False, "attention to later tokens"),
}
"""Options that a layer may pass to its attention, with their meaning. Remove a line when ``attend`` supports it."""

_counting: list[Counter[int]] = []


class PromisedMask:
    """A mask that is built at its first use, then shared by all layers of one forward with the same window."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._made: dict[int | None, Tensor | None] = {}

    @property
    def window_tokens(self) -> int | None:
        """The window of the model's own mask in tokens; None where it has no window."""
        window: int | None = self._arguments.get("local_size")
        return window

    def __getitem__(self, index: tuple[slice, ...]) -> "PromisedMask":
        """Itself: Gemma 4's class cuts the mask for layers that share keys, and without a cache it keeps all of it."""
        assert all(each in (slice(None), slice(0, None)) for each in index), "a promised mask cannot be cut"
        return self

    def make(self, window_tokens: int | None = None) -> Bool[Tensor, "rows 1 tokens keys"] | None:
        """The mask, cut to the last ``window_tokens`` keys where a layer has a window that its class lacks."""
        if window_tokens not in self._made:
            make = partial(sdpa_mask, **self._arguments)
            if window_tokens is not None:
                whole = self._arguments.get("mask_function", causal_mask_function)
                # From local_size transformers sees whether the window covers all keys; then it needs no mask.
                make = partial(
                    make,
                    mask_function=and_masks(whole, sliding_window_overlay(window_tokens)),
                    local_size=window_tokens,
                )
            self._made[window_tokens] = make()
        return self._made[window_tokens]


def make_empty_mask(device: torch.device) -> Float[Tensor, "0 0 0 0"]:
    """A mask for a forward over a partition: it holds nothing, and transformers hands on any mask of four dimensions.

    Without a mask transformers compares all positions first, and the host waits for a GPU in every forward.
    """
    return torch.empty(0, 0, 0, 0, device=device)


def promise_mask(**arguments: Any) -> PromisedMask:
    """Called by transformers to get a mask for the name ``ropewalk``."""
    return PromisedMask(arguments)


@stay_outside
def attend_layer(
    module: nn.Module,
    query: Float[Tensor, "rows heads tokens head_dim"],
    key: Float[Tensor, "rows kv_heads keys _"],
    value: Float[Tensor, "rows kv_heads keys _"],
    attention_mask: PromisedMask | Mask | None,
    *,
    partition: AnyPartition | None = None,
    context_group: dist.ProcessGroup | None = None,
    key_cache: KeyCache | None = None,
    **settings: Any,
) -> tuple[Float[Tensor, "rows tokens heads _"], None]:
    """Attention of one layer, called by transformers; ``partition`` and ``context_group`` come from the forward.

    A latent attention that model/latent_attention has changed passes its latents in place of ``key`` and ``value``.
    With a partition, the batch has one entry: this rank's tokens of all sequences, in the partition's order.
    A ``key_cache`` keeps keys and values; without a partition the tokens attend to those that it keeps.
    ``settings`` are transformers' own (``scaling``, ``sliding_window``). Where model/rope_hooks directs the layer they
    also hold ``window_tokens`` and ``query_temperature`` [rows, tokens], a factor for the queries.
    """
    window_tokens: int | None = settings.pop("window_tokens", None)
    temperature: Float[Tensor, "rows tokens"] | None = settings.pop("query_temperature", None)
    if temperature is not None:
        # [rows, heads, tokens, head_dim] x [rows, 1, tokens, 1]
        query = (query * temperature[:, None, :, None]).to(query.dtype)
    latents = None
    if isinstance(module, LatentAttention):
        key, value, latents = module.open_latents(key, value)
    bias = getattr(module, BIAS, None)
    if key_cache is not None:
        _refuse_bias(module, bias)
    if partition is None and key_cache is None:
        return _attend_plainly(module, query, key, value, attention_mask, window_tokens, settings)
    assert len(query) == 1, "a rank's tokens of all rows are one row"
    _refuse_undone(module, query, key, value, attention_mask, settings)
    for counter in _counting:
        counter[getattr(module, "layer_idx", 0)] += 1
    # thrice [1, heads, tokens, head_dim] -> [tokens, heads, head_dim]
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    seen_tokens = window_tokens or settings.get("sliding_window")
    if key_cache is not None:
        layer = getattr(module, "layer_idx", 0)
        if partition is None:
            output = key_cache.attend(layer, query, key, value, window_tokens=seen_tokens, settings=settings)
            return output[None], None  # [new, heads, value_dim] -> [1, new, heads, value_dim]
        key_cache.keep(layer, key, value)
    assert partition is not None
    seen = partition.with_window(seen_tokens)
    own = query, key, value
    output = _attend_seen(own, latents=latents, bias=bias, seen=seen, group=context_group, settings=settings)
    if latents is None:  # whose keys exist only in blocks
        for watched in WATCHED_NEEDLES:
            marked = query, key, watched.mark(key)
            shares = _attend_seen(marked, latents=None, bias=bias, seen=seen, group=context_group, settings=settings)
            watched.keep(getattr(module, "layer_idx", 0), shares)
    return output[None], None  # [tokens, heads, value_dim] -> [1, tokens, heads, value_dim]


def _attend_seen(
    own: tuple[Float[Tensor, "tokens heads _"], Float[Tensor, "tokens kv_heads _"], Float[Tensor, "tokens kv_heads _"]],
    *,
    latents: Latents | None,
    bias: nn.Module | None,
    seen: AnyPartition,
    group: dist.ProcessGroup | None,
    settings: Mapping[str, Any],
) -> Float[Tensor, "tokens heads _"]:
    """The attention over a partition that the layer needs: with a bias, with latents that travel, or plain."""
    query, key, value = own
    if bias is not None:
        assert isinstance(seen, Partition), "recipe/check refuses a bias whose rows are shared"
        places = settings["position_ids"][0]
        return attend_biased(
            query,
            key,
            value,
            bias=cast("Alibi | Fire", bias),
            positions=places,
            partition=seen,
            scale=settings["scaling"],
        )
    if latents is not None:
        scale = settings["scaling"]
        return attend_latents(query, key, value, latents, partition=seen, group=group, scale=scale)
    return attend(
        query,
        key,
        value,
        partition=seen,
        group=group,
        scale=settings["scaling"],
        soft_cap=settings.get("softcap"),
        sinks=settings.get("s_aux"),
    )


def _refuse_bias(module: nn.Module, bias: object) -> None:
    if bias is not None:
        raise UserError(
            "a model with a bias of attention scores cannot write text",
            where=f"layer {getattr(module, 'layer_idx', '?')}",
            why="the cache of keys does not support such a bias",
            fix="leave evaluate.ruler out",
        )


def _attend_plainly(
    module: nn.Module,
    query: Float[Tensor, "rows heads tokens head_dim"],
    key: Float[Tensor, "rows kv_heads keys head_dim"],
    value: Float[Tensor, "rows kv_heads keys value_dim"],
    mask: PromisedMask | Mask | None,
    window_tokens: int | None,
    settings: Mapping[str, Any],
) -> tuple[Float[Tensor, "rows tokens heads value_dim"], None]:
    """transformers' SDPA. Raises UserError for options that SDPA would ignore without a warning."""
    asked = [
        name
        for name, wanted in (
            ("a bias of its own", getattr(module, BIAS, None) is not None),
            ("a soft cap", bool(settings.get("softcap"))),
            ("sinks", settings.get("s_aux") is not None),
        )
        if wanted
    ]
    if asked:
        raise UserError(
            f"a layer with {' and '.join(asked)} needs the documents of its tokens",
            where="the model's forward",
            why="without them it would use SDPA of transformers, which does not support it",
            fix="pass partition= and position_ids as the shards of parallelize have them, or "
            "set_attn_implementation('eager') if the class supports it",
        )
    made = mask.make(window_tokens) if isinstance(mask, PromisedMask) else mask
    assert window_tokens is None or isinstance(mask, PromisedMask), "a made mask cannot be cut to a window"
    output, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, made, **settings)
    return output, None


def count_calls() -> AbstractContextManager[Counter[int]]:
    """Count how often each layer's attention runs over a partition in this context, by the layer's index.

    Layers that are recomputed in the backward run twice.
    """
    return hold_last(_counting, Counter())


def _refuse_undone(
    module: nn.Module,
    query: Float[Tensor, "rows heads tokens head_dim"],
    key: Float[Tensor, "rows kv_heads keys head_dim"],
    value: Float[Tensor, "rows kv_heads keys value_dim"],
    mask: PromisedMask | Mask | None,
    settings: Mapping[str, Any],
) -> None:
    """Raise UserError if this layer's attention is more than causal softmax in a document or a window of it."""
    asked = [meaning for name, (wants, meaning) in _UNDONE.items() if name in settings and wants(settings[name])]
    if key.shape[2] != query.shape[2]:
        asked.append("a cache of earlier keys, which is not in the partition")
    if value.shape[-1] > key.shape[-1]:
        asked.append("values that are wider than the keys")
    if isinstance(mask, Tensor) and mask.numel():
        asked.append("a mask that the model makes itself")
    elif isinstance(mask, PromisedMask) and mask.window_tokens not in (None, settings.get("sliding_window")):
        asked.append(
            f"a mask with chunks or windows of {mask.window_tokens} tokens that its attention does not receive"
        )
    if asked:
        raise UserError(
            f"{type(module).__name__} cannot run over a partition",
            where=f"layer {getattr(module, 'layer_idx', '?')}",
            why=f"it needs {'; '.join(asked)}",
            fix="choose a model with plain causal attention, or train it without context parallelism",
        )


AttentionInterface.register(NAME, attend_layer)
AttentionMaskInterface.register(NAME, promise_mask)
