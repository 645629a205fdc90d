"""Does a class mix tokens anywhere outside of attention? Tried on a tiny model of it, whose windows are short.

Two packed documents must have the outputs of each alone, and two context ranks those of one. One document is longer
than the longest window, so that windows are in the trial. Where a result differs, the first module that reads equal
inputs and gives other outputs is the one that mixes tokens, and its kind is named.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from transformers import PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.model.twin import LAYERS, WINDOW_TOKENS, make_twin
from ropewalk.model.watch_attention import WATCHED, Watch, watch_attention
from ropewalk.partition import partition_tokens
from ropewalk.shape.rope_keys import FULL, WINDOWED

LENGTHS = (5, WINDOW_TOKENS + 5)
"""Tokens of the two documents; together an even number of quarters, so that two ranks have equal parts."""
BAR, EAGER_BAR = 1e-9, 1e-5
"""Largest difference of results in float64, as a part of their norm; many classes' own softmax is in float32."""
WHOLE = torch.arange(sum(LENGTHS))[None]
"""The places of the trial's tokens on one rank."""
SHORT_WINDOW: Mapping[str, Any] = {"sliding_window": WINDOW_TOKENS, "use_sliding_window": True}
BOTH_KINDS = [WINDOWED, FULL] * (LAYERS // 2)
REFUSALS = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RuntimeError, StrictDataclassError)
"""What transformers raises for a config that it does not take."""
_TOKENS = torch.arange(sum(LENGTHS)) % 89 + 3
# documents x [tokens] -> [all]
_POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])


@torch.no_grad()
def run_watched(
    model: PreTrainedModel,
    places: Int64[Tensor, "rows tokens"],
    *,
    documents: Sequence[int] = LENGTHS,
    positions: Int64[Tensor, "all"] | None = None,
) -> tuple[Float[Tensor, "rows tokens vocabulary"], Watch]:
    """The logits of the trial's tokens at ``places``, one row for each rank, and what attention was called with."""
    document = np.repeat(np.arange(len(documents), dtype=np.int32), documents)[None]
    partition = partition_tokens(document, ranks=1)
    positions = _POSITIONS if positions is None else positions
    model.set_attn_implementation(WATCHED)
    with watch_attention(partition, places) as watch:
        logits = model(
            _TOKENS[places], position_ids=positions[places], use_cache=False, partition=partition, context_group=None
        ).logits
    return logits, watch


def try_short_windows(
    kind: type[PreTrainedModel], changes: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, Watch]:
    """The trial on a tiny model of ``kind``, with a window in every second layer where the class can have that.

    The result is that model, and what its attention was called with. Raises UserError as ``try_twin`` does, and one of
    ``REFUSALS`` where the class has no tiny model: that says nothing about how its tokens interact.
    """
    settings = {**(changes or {}), **SHORT_WINDOW}
    try:
        model = make_twin(kind, {**settings, "layer_types": BOTH_KINDS})
        run_watched(model, WHOLE)
    except REFUSALS:
        model = make_twin(kind, settings)
    return model, try_twin(model)


@torch.no_grad()
def try_twin(model: PreTrainedModel) -> Watch:
    """Run the trial on a tiny model; the result is what its attention was called with.

    Raises UserError, with the kind of the layer, for a class whose tokens interact outside of causal attention.
    """
    name = type(model).__name__
    with _record(model) as packed_outputs:
        packed, watch = run_watched(model, WHOLE)
    if len(watch.calls) != model.config.get_text_config().num_hidden_layers:
        raise refuse_class(name, "its attention does not go through transformers' AttentionInterface in all layers")
    _require_short_windows(name, watch)
    # [all] -> 4 x [quarter] -> [2 ranks, half]
    quarters = WHOLE[0].chunk(4)
    # first and last, second and third -> [2, half]
    ranks = torch.stack([torch.cat([quarters[0], quarters[3]]), torch.cat([quarters[1], quarters[2]])])
    with _record(model) as cut_outputs:
        cut, _ = run_watched(model, ranks)
    model.set_attn_implementation("eager")  # its authors' own definition of its attention
    # documents x [tokens, vocabulary] -> [all, vocabulary]
    alone = torch.cat([model(part[None], use_cache=False).logits[0] for part in _TOKENS.split(LENGTHS)])
    order = ranks.flatten().argsort()
    mixed = _differ(cut.flatten(0, 1)[order], packed[0])
    if mixed > BAR:
        place = _find_mixer(model, packed_outputs, cut_outputs, order)
        raise refuse_class(
            name,
            f"two context ranks differ by {mixed:.1e} from one: {place or 'tokens also interact'} outside of attention",
        )
    if (differs := _differ(packed[0], alone)) > EAGER_BAR:
        raise refuse_class(
            name,
            f"two packed documents differ by {differs:.1e} of their norm from the same documents alone: its "
            "attention is more than causal softmax, or something else joins the documents",
        )
    return watch


def tell_error(error: Exception) -> str:
    """One of ``REFUSALS`` in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def refuse_class(name: str, why: str) -> UserError:
    """The refusal of a class without a row that cannot be read off the class itself."""
    return UserError(
        f"{name} is not supported",
        where=name,
        why=why,
        fix="choose a base of a supported class, or of one with plain causal attention (docs/models.md)",
    )


def _differ(found: Float[Tensor, "tokens width"], wanted: Float[Tensor, "tokens width"]) -> float:
    difference = (found - wanted).norm() / wanted.norm()
    return float(difference) if difference.isfinite() else float("inf")


def _require_short_windows(name: str, watch: Watch) -> None:
    longest = max((call.window_tokens or call.mask_window or 0 for call in watch.calls), default=0)
    if longest >= max(LENGTHS):
        raise refuse_class(
            name, f"it has a window of {longest} tokens that does not follow sliding_window, so no trial sees it"
        )


_Outputs = list[tuple[str, str, Shaped[Tensor, "..."] | None, Shaped[Tensor, "..."]]]
"""For each call of a module: its path, its class, its first input and its output."""


@contextmanager
def _record(model: nn.Module) -> Iterator[_Outputs]:
    found: _Outputs = []
    hooks = []
    for path, module in model.named_modules():
        if next(module.children(), None) is None or "Attention" not in type(module).__name__:

            def note(module: nn.Module, args: tuple[Any, ...], output: Any, path: str = path) -> None:
                first = next((each for each in args if isinstance(each, Tensor)), None)
                if isinstance(output, Tensor):
                    found.append((path, type(module).__name__, first, output))

            hooks.append(module.register_forward_hook(note))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _find_mixer(model: nn.Module, one: _Outputs, two: _Outputs, order: Int64[Tensor, "all"]) -> str:
    """The first module that gives other outputs over two ranks although it reads the same."""
    attentions = {path for path, module in model.named_modules() if "Attention" in type(module).__name__}
    for (path, kind, before, packed), (_, _, after, cut) in zip(one, two, strict=False):
        inside = any(path.startswith(f"{each}.") for each in attentions)
        pairs = [(before, after), (packed, cut)]
        if inside or any(first is None or second is None for first, second in pairs):
            continue
        same = [_alike(first, second, order) for first, second in pairs if first is not None and second is not None]
        if same == [True, False]:
            return f"{kind} ({path}) joins tokens"
    return ""


def _alike(one: Shaped[Tensor, "..."], two: Shaped[Tensor, "..."], order: Int64[Tensor, "all"]) -> bool:
    if one.dim() != 3 or two.dim() != 3 or two.shape[:2].numel() != len(order) or not one.is_floating_point():
        return False
    return _differ(two.flatten(0, 1)[order], one[0]) <= BAR
