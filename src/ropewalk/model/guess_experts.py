"""The mixture of experts of a class without a row: which keys size it, which layers have it, what its router returns.

A key is known by its effect, as in guess_keys.py: a tiny model is built with another value, and the sizes are compared.
Only what transformers' own interface for experts runs is read: one tensor of all first matrices, one of all last ones.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ropewalk.core.error import UserError
from ropewalk.model.expert_files import CHOICE_BIAS, join_experts
from ropewalk.model.guess_keys import Changes, Kind
from ropewalk.model.guess_parts import EXPERTS, FoundParts, is_mixture
from ropewalk.model.trial import REFUSALS, WHOLE, refuse_class, run_watched
from ropewalk.model.twin import FEW_EXPERTS, LAYERS, WIDTH, make_config, make_empty, make_twin
from ropewalk.model.weights import read_headers
from ropewalk.shape.family import ExpertKeys


def make_few(kind: Kind) -> Changes:
    """Changes that make the experts of a tiny model few and small; none for a class without experts."""
    try:
        names = dict(make_empty(kind, FEW_EXPERTS).named_parameters())
    except REFUSALS:
        return {}
    return FEW_EXPERTS if any(f".{EXPERTS}." in name and each.dim() == 3 for name, each in names.items()) else {}


@dataclass(frozen=True)
class _Sizes:
    """The mixtures of a tiny model: their layers, and of the last one the numbers that keys can change."""

    layers: tuple[int, ...]
    module: Any
    experts: int
    width: int
    shared: int


def guess_experts(kind: Kind, changes: Changes, found: FoundParts) -> ExpertKeys | None:
    """The keys of a class's mixture; None for a class without one. Raises UserError for a mixture of another kind."""
    sizes = _read_sizes(kind, changes, found)
    if sizes is None:
        return None
    name = kind.__name__
    tensors = {path: tuple(each.shape) for path, each in sizes.module.experts.named_parameters()}
    biases = {"gate_up_proj_bias": (sizes.experts, 2 * sizes.width), "down_proj_bias": (sizes.experts, WIDTH)}
    plain = {
        "gate_up_proj": (sizes.experts, 2 * sizes.width, WIDTH),
        "down_proj": (sizes.experts, WIDTH, sizes.width),
    }
    if tensors not in (plain, plain | biases):
        raise refuse_class(name, f"its experts have other tensors than transformers' interface runs: {tensors}")
    _require_names(kind, changes)
    router, scores, chosen = _read_router(kind, changes, found, sizes)
    counts = tuple(_find_keys(kind, changes, found, "experts", sizes.experts))
    widths = tuple(_find_keys(kind, changes, found, "width", sizes.width))
    if not counts or not widths:
        raise refuse_class(name, f"no key of its config sets the {'width' if counts else 'number'} of its experts")
    balance = next((each for each in sizes.module.modules() if hasattr(each, CHOICE_BIAS)), None)
    kept = "none" if balance is None else "parameter" if CHOICE_BIAS in balance._parameters else "buffer"
    return ExpertKeys(
        counts,
        _find_chosen(kind, changes, found, sizes, chosen),
        widths[0],
        dense=_find_dense(kind, changes, found, sizes),
        router_bias=any(each.shape == (sizes.experts,) for each in _own_biases(sizes.module.get_submodule(router))),
        expert_bias=tensors != plain,
        balance_bias=kept,  # type: ignore[arg-type]
        scores=scores,
        router=router,
        **_find_shared(kind, changes, found, sizes),
    )


def fix_scores(kind: Kind, changes: Changes) -> dict[str, object]:
    """The keys that choose how experts are scored, which must stay as they were when the router was read."""
    return {key: each for key, each in make_config(kind, changes).to_dict().items() if each in ("softmax", "sigmoid")}


def _require_names(kind: Kind, changes: Changes) -> None:
    """Raise UserError unless the names in the class's files are read as the class's own (expert_files.py)."""
    model = make_twin(kind, changes)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found, wanted = {*join_experts(read_headers(Path(folder)))}, {*model.state_dict()}
    unknown = sorted(found - wanted)
    if unknown:
        raise refuse_class(
            kind.__name__, f"its files name tensors of the mixture otherwise than its class does ({unknown[0]})"
        )


def _own_biases(router: nn.Module) -> Iterator[nn.Parameter]:
    return (each for name, each in router.named_parameters() if not name.endswith(CHOICE_BIAS))


def _read_sizes(kind: Kind, changes: Changes, found: FoundParts) -> _Sizes | None:
    model: Any = make_empty(kind, changes)
    blocks = getattr(getattr(model, found.parts.backbone), found.parts.layers)
    mixed = [(layer, block.get_submodule(found.parts.mlp)) for layer, block in enumerate(blocks)]
    mixed = [(layer, part) for layer, part in mixed if is_mixture(part)]
    if not mixed:
        return None
    last: Any = mixed[-1][1]
    down = getattr(last.experts, "down_proj", None)
    if not isinstance(down, nn.Parameter) or down.dim() != 3:
        raise refuse_class(kind.__name__, "its experts are not run by transformers' interface for them")
    outside = [
        each
        for path, each in last.named_modules()
        if isinstance(each, nn.Linear) and not path.startswith(f"{EXPERTS}.") and each.out_features == WIDTH
    ]
    shared = outside[0].in_features if outside else 0
    return _Sizes(tuple(layer for layer, _ in mixed), last, down.shape[0], down.shape[2], shared)


def _read_router(
    kind: Kind, changes: Changes, found: FoundParts, sizes: _Sizes
) -> tuple[str, Literal["softmax", "sigmoid", "given"], int]:
    """The path of the router, how it scores experts, and how many a token uses; from what it returns in a forward."""
    model: Any = make_twin(kind, changes)
    block = getattr(getattr(model, found.parts.backbone), found.parts.layers)[sizes.layers[-1]]
    mixture = block.get_submodule(found.parts.mlp)
    said: dict[str, Any] = {}
    for path, module in mixture.named_modules():
        if path and not path.startswith(EXPERTS):
            module.register_forward_hook(lambda module, args, output, path=path: said.setdefault(path, output))
    run_watched(model, WHOLE)
    for path, output in said.items():
        if isinstance(output, tuple) and len(output) == 3 and all(isinstance(each, Tensor) for each in output):
            logits, weights, chosen = output
            if logits.shape[-1] == sizes.experts and chosen.shape == weights.shape and not chosen.is_floating_point():
                return path, find_scores(kind, logits, weights, chosen), chosen.shape[-1]
    raise refuse_class(kind.__name__, "its router does not return logits, weights and numbers of the chosen experts")


def find_scores(
    kind: Kind,
    logits: Float[Tensor, "tokens experts"],
    weights: Float[Tensor, "tokens chosen"],
    chosen: Int64[Tensor, "tokens chosen"],
) -> Literal["softmax", "sigmoid", "given"]:
    """How a router scores experts, by what it returned. Raises UserError where no way fits, or more than one."""
    ways: Mapping[Literal["softmax", "sigmoid", "given"], Tensor] = {
        "softmax": logits.softmax(-1),
        "sigmoid": logits.sigmoid(),
        "given": logits,
    }
    fitting: list[Literal["softmax", "sigmoid", "given"]] = []
    for way, scores in ways.items():
        ours = scores.gather(-1, chosen)  # [tokens, experts] -> [tokens, chosen]
        given, told = (each / each.sum(-1, keepdim=True) for each in (ours.double(), weights.double()))
        if torch.allclose(given, told, rtol=1e-5):
            fitting.append(way)
    if len(fitting) > 1:  # one expert for each token, or equal scores: any way would fit
        raise refuse_class(kind.__name__, "the weights of its router do not tell how it scores experts")
    if not fitting:
        raise refuse_class(kind.__name__, "its router weighs experts otherwise than by a softmax or by sigmoids")
    return fitting[0]


def _numbers(kind: Kind, changes: Changes, value: int) -> list[str]:
    """The keys of a tiny config whose value is ``value``, under all names that the class reads."""
    config = make_config(kind, changes)
    own = [key for key, each in config.to_dict().items() if type(each) is int and each == value]
    return [*own, *(alias for alias, real in kind.config_class.attribute_map.items() if real in own)]


def _find_keys(kind: Kind, changes: Changes, found: FoundParts, field: str, value: int) -> Iterator[str]:
    """The keys that set a number of the mixtures, which is ``value`` now."""
    names = _numbers(kind, changes, value)
    for key in names:
        others = {each: ... for each in names if each in changes}
        try:
            other = _read_sizes(kind, {**changes, **others, key: value + 8}, found)
        except REFUSALS:
            continue
        if other is not None and getattr(other, field) == value + 8:
            yield key


def _find_chosen(kind: Kind, changes: Changes, found: FoundParts, sizes: _Sizes, chosen: int) -> str:
    """The key for how many experts a token uses."""
    for key in _numbers(kind, changes, chosen):
        try:
            if _read_router(kind, {**changes, key: chosen + 1}, found, sizes)[2] == chosen + 1:
                return key
        except (*REFUSALS, UserError):
            continue
    raise refuse_class(kind.__name__, "no key of its config sets how many experts a token uses")


def _find_shared(kind: Kind, changes: Changes, found: FoundParts, sizes: _Sizes) -> dict[str, Any]:
    """The fields for what every token uses beside its experts: a width, or a number of experts' widths."""
    if not sizes.shared:
        return {}
    gates = [each for each in sizes.module.modules() if isinstance(each, nn.Linear) and each.out_features == 1]
    fields: dict[str, Any] = {"shared_gate": bool(gates)}
    for key in _find_keys(kind, changes, found, "shared", sizes.shared):
        if key != "moe_intermediate_size":
            return fields | {"shared_width": key}
    times = sizes.shared // sizes.width
    for key in _numbers(kind, changes, times):
        try:
            other = _read_sizes(kind, {**changes, key: times + 1}, found)
        except REFUSALS:
            continue
        if other is not None and other.shared == (times + 1) * sizes.width:
            return fields | {"shared": key}
    raise refuse_class(kind.__name__, "no key of its config sets the width of what every token uses beside its experts")


def _find_dense(kind: Kind, changes: Changes, found: FoundParts, sizes: _Sizes) -> Any:
    """Which layers have a plain MLP instead, by a key for it."""
    ways: Mapping[str, tuple[Changes, tuple[int, ...]]] = {
        "types": ({"mlp_layer_types": ["dense", "sparse", "dense", "sparse"]}, (1, 3)),
        "first": ({"first_k_dense_replace": 2}, (2, 3)),
        "step": ({"decoder_sparse_step": 2, "mlp_only_layers": [3]}, (1,)),
    }
    for way, (more, wanted) in ways.items():
        if way != "types" and next(iter(more)) not in make_config(kind, changes).to_dict():
            continue  # a file that the class saves does not have the key
        try:
            other = _read_sizes(kind, {**changes, **more}, found)
        except REFUSALS:
            continue
        if other is not None and other.layers == wanted:
            return way
    if sizes.layers != tuple(range(LAYERS)):
        raise refuse_class(kind.__name__, f"its layers {sizes.layers} have experts by no rule that ropewalk knows")
    return "none"
