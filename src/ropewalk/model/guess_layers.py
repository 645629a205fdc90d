"""Which layers of a class without a row have a window, and which of them RoPE turns; read from the calls of attention.

The tiny model's blocks add nothing to what they read, so the queries of every layer depend on their token and place
alone. At place 0 RoPE turns nothing; at other places each pair must be turned by its live angle, or by none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel

from ropewalk.model.guess_keys import Changes, Kind
from ropewalk.model.guess_parts import FoundMatrices, FoundParts, is_mixture
from ropewalk.model.read_rope import LiveLayer
from ropewalk.model.trial import BOTH_KINDS, LENGTHS, REFUSALS, SHORT_WINDOW, WHOLE, refuse_class, run_watched
from ropewalk.model.twin import LAYERS, WINDOW_TOKENS, make_config, make_twin
from ropewalk.shape.rope_keys import FULL

_MANY = 12


def guess_windows(kind: Kind, changes: Changes) -> dict[str, Any]:
    """The fields for windows: which layers may have one, by which keys, and the defaults."""

    def windows(more: Changes) -> list[int | None]:
        watch = run_watched(make_twin(kind, {**changes, **more}), WHOLE)[1]
        return [call.window_tokens for call in watch.calls]

    try:
        both = windows({**SHORT_WINDOW, "layer_types": BOTH_KINDS})
    except REFUSALS:
        both = windows(SHORT_WINDOW)
    if both == [None] * LAYERS:
        return {"windows": "none"}
    some = both == [WINDOW_TOKENS, None] * (LAYERS // 2)
    if not some and both != [WINDOW_TOKENS] * LAYERS:
        raise refuse_class(kind.__name__, f"its layers have windows of {both}, given {WINDOW_TOKENS} and layer_types")
    fields: dict[str, Any] = {"windows": "some" if some else "all"}
    bare = make_config(kind, {**changes, "use_sliding_window": True})
    fields["window_tokens"] = getattr(bare, "sliding_window", None)
    fields["window_switch"] = hasattr(kind.config_class(), "use_sliding_window")
    if some:
        many = {**SHORT_WINDOW, "num_hidden_layers": _MANY, "layer_types": ...}
        default = [window is not None for window in windows(many)]
        fields["window_every"] = _find_period(default)
        if fields["window_every"]:
            other = [window is not None for window in windows({**many, "sliding_window_pattern": 3})]
            fields["window_every_key"] = (
                "sliding_window_pattern" if _find_period(other) == 3 != fields["window_every"] else ""
            )
        later = [window is not None for window in windows({**many, "max_window_layers": 5})]
        if later == [False] * 5 + [True] * (_MANY - 5):
            fields["window_rule"] = "later"
        turning = getattr(make_config(kind, {**changes, **many}), "no_rope_layers", None)
        if turning and default == [not turns for turns in turning]:
            fields["window_rule"] = "nope"
    return fields


def _find_period(windowed: Sequence[bool]) -> int:
    """The least period of which all layers but the last have a window; 0 for other patterns."""
    periods = range(2, len(windowed) // 2 + 1)
    return next((n for n in periods if list(windowed) == [(i + 1) % n != 0 for i in range(len(windowed))]), 0)


def guess_nope(
    kind: Kind, changes: Changes, found: FoundParts, matrices: FoundMatrices, windows: str
) -> dict[str, Any]:
    """The field for layers that the class does not turn."""

    def turning(more: Changes) -> list[bool]:
        return find_turning(_silence(make_twin(kind, {**changes, **more}), found, matrices))

    listed = hasattr(make_config(kind, changes), "no_rope_layers")
    if listed and turning({"no_rope_layers": [1, 0, 1, 0]}) == [True, False, True, False]:
        return {"nope": "switch"}
    if windows != "some":
        return {}
    turned = turning({**SHORT_WINDOW, "layer_types": BOTH_KINDS})
    if all(turned):
        return {}
    if turned != [True, False] * (LAYERS // 2):
        raise refuse_class(kind.__name__, f"which layers RoPE turns follows no rule that ropewalk knows ({turned})")
    try:
        alone = turning({"sliding_window": None, "use_sliding_window": False, "layer_types": [FULL] * LAYERS})
    except REFUSALS:
        return {"nope": "full"}
    return {"nope": "full_beside_windows" if all(alone) else "full"}


@torch.no_grad()
def _silence(model: PreTrainedModel, found: FoundParts, matrices: FoundMatrices) -> PreTrainedModel:
    """Let the blocks of ``model`` add nothing to what they read."""
    layers: Any = getattr(getattr(model, found.parts.backbone), found.parts.layers)
    down = matrices.projections.get("down_proj", "down_proj")
    for block in layers:
        attention, mlp = block.get_submodule(found.parts.attention), block.get_submodule(found.parts.mlp)
        last: list[Any] = [attention.get_submodule(matrices.output)]
        last += [mlp] if is_mixture(mlp) else []
        last += [each for path, each in mlp.named_modules() if path.rpartition(".")[2] == down]
        for matrix in last:
            for parameter in matrix.parameters():
                nn.init.zeros_(parameter)
        for norm in attention.modules():  # one that follows RoPE would scale the dimensions of a pair apart
            if "norm" in type(norm).__name__.lower():
                for name, parameter in norm.named_parameters(recurse=False):
                    nn.init.constant_(parameter, float(name == "weight"))
    return model


def find_turning(model: PreTrainedModel) -> list[bool]:
    """Whether each layer of a silenced model turns its queries."""
    near, far = _read_queries(model, 0), _read_queries(model, 3)
    return [bool((one - other).abs().max() > 1e-6) for one, other in zip(near, far, strict=True)]


def _read_queries(model: PreTrainedModel, spread: int) -> list[Float[torch.Tensor, "heads tokens head_dim"]]:
    """The queries of each layer [heads, tokens, head_dim], with places ``spread`` apart."""
    positions = spread * torch.arange(sum(LENGTHS))
    watch = run_watched(model, WHOLE, documents=(sum(LENGTHS),), positions=positions)[1]
    return [call.query for call in watch.calls]


def check_queries(
    model: PreTrainedModel, found: FoundParts, matrices: FoundMatrices, lives: Sequence[LiveLayer]
) -> None:
    """Prove that each layer turns its queries by the live angles, and does nothing else to them by their place.

    Raises UserError where a layer does.
    """
    silent = _silence(model, found, matrices)
    near, far = _read_queries(silent, 0), _read_queries(silent, 3)
    places = 3 * torch.arange(sum(LENGTHS)).double()
    for index, (live, before, after) in enumerate(zip(lives, near, far, strict=True)):
        angles = places[:, None] * torch.from_numpy(live.inv_freq)  # [tokens, pairs]
        if not any(
            torch.allclose(_turn(before, sign * angles, way), after, atol=1e-5) for way in _WAYS for sign in (1, -1)
        ):
            raise refuse_class(
                type(model).__name__,
                f"layer {index} changes its queries by their place otherwise than by the angles of its rotary module",
            )


_WAYS: Mapping[str, Any] = {
    "halves, first": (False, False),
    "neighbours, first": (True, False),
    "halves, last": (False, True),
    "neighbours, last": (True, True),
}
"""Whether a pair lies side by side, and whether the turned dimensions are the last ones of a head. A class may turn
queries and keys backwards as well, which gives the same scores."""


def _turn(
    query: Float[torch.Tensor, "heads tokens head_dim"], angles: Float[torch.Tensor, "tokens pairs"], way: str
) -> Float[torch.Tensor, "heads tokens head_dim"]:
    """``query`` [heads, tokens, head_dim] with its pairs turned by ``angles`` [tokens, pairs]."""
    neighbours, last = _WAYS[way]
    pairs = angles.shape[1]
    start = query.shape[-1] - 2 * pairs if last else 0
    index = torch.arange(pairs)
    one, two = (2 * index, 2 * index + 1) if neighbours else (index, index + pairs)
    turned = query.clone()
    x, y = query[..., start + one], query[..., start + two]
    turned[..., start + one] = x * angles.cos() - y * angles.sin()
    turned[..., start + two] = y * angles.cos() + x * angles.sin()
    return turned
