"""The mixture of experts of a model: which layers have one, how many experts of which width, and what a token uses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.shape.family import ExpertKeys


@dataclass(frozen=True, slots=True)
class Experts:
    """``count`` experts with an inner width of ``width``, of which each token uses ``per_token``.

    ``layers`` are the indices of the layers with a mixture. ``shared_width`` is the inner width of what every token
    uses besides. ``other_parameters`` are the trained numbers of one mixture that belong to no expert and no shared
    part: the router, its bias, gates. The experts' own biases are ``bias_width`` numbers for each of them.
    """

    count: int
    per_token: int
    width: int
    layers: tuple[int, ...]
    shared_width: int = 0
    other_parameters: int = 0
    bias_width: int = 0
    norms: int = 0
    """The norms that a layer with a mixture has more than others, without a bias; ``other_parameters`` counts them."""
    beside: bool = False
    """Whether the layer has its dense MLP too."""
    matrices: int = 3
    """Matrices of an expert."""

    def parameters(self, width: int) -> int:
        """Parameters of one mixture in a model of ``width``, router and shared part included."""
        return self.own_parameters(width) + self.matrices * width * self.shared_width + self.other_parameters

    def own_parameters(self, width: int) -> int:
        """Parameters of the experts of one mixture alone."""
        return self.count * (self.matrices * width * self.width + self.bias_width)

    def active_width(self) -> int:
        """The inner width that a token passes: its experts and the shared part."""
        return self.per_token * self.width + self.shared_width


def read_experts(
    config: Mapping[str, Any], keys: ExpertKeys, *, layers: int, width: int, count: Callable[[str], int], where: str
) -> Experts | None:
    """The mixture that a config.json describes, None where no layer has one; ``count`` reads a whole number by its key.

    Raises UserError for numbers that do not fit each other.
    """
    if keys.switch and not config.get(keys.switch):
        return None
    mixed = tuple(layer for layer in range(layers) if _has_mixture(config, keys, layer, where=where))
    name = _find_name(config, keys, where)
    if not mixed or (keys.may_have_none and _whole(config, name, where) == 0):
        return None
    experts, per_token, inner = count(name), _read_chosen(config, keys, layers, count, where), count(keys.width)
    if per_token > experts:
        raise UserError(
            "a token cannot use more experts than there are",
            where=f"{where}: {keys.per_token}",
            why=f"it is {per_token}, and {name} is {experts}",
            fix="correct one of them",
        )
    shared = inner * _whole(config, keys.shared, where) if keys.shared else 0
    if keys.shared_width:
        shared = _whole(config, keys.shared_width, where)
    router = experts * width + experts * (keys.router_bias + (keys.balance_bias == "parameter"))
    norms = 3 * keys.beside
    scales = (width + experts) * keys.beside
    return Experts(
        experts,
        per_token,
        inner,
        mixed,
        shared_width=shared,
        other_parameters=router + scales + width * (keys.shared_gate + norms),
        bias_width=(2 * inner + width) * keys.expert_bias,
        norms=norms,
        beside=keys.beside,
        matrices=3 if keys.gated else 2,
    )


def _find_name(config: Mapping[str, Any], keys: ExpertKeys, where: str) -> str:
    """The key with the number of experts. Raises UserError where a file has it under two names that disagree."""
    names = [name for name in keys.count if name in config] or [keys.count[0]]
    other = next((name for name in names if config.get(name) != config.get(names[0])), None)
    if other is None:
        return names[0]
    raise UserError(
        "the number of experts is ambiguous",
        where=f"{where}: {other}",
        why=f"it is {config[other]!r:.60}, {names[0]} is {config[names[0]]!r:.60}, and the class has one number",
        fix="remove the wrong one from config.json",
    )


def _read_chosen(
    config: Mapping[str, Any], keys: ExpertKeys, layers: int, count: Callable[[str], int], where: str
) -> int:
    """How many experts a token uses. Raises UserError for a list whose layers differ, or that has not one for each."""
    given = config.get(keys.per_token)
    if not keys.per_layer or not isinstance(given, list):
        return count(keys.per_token)
    if len(given) == layers and all(type(each) is int and each == given[0] > 0 for each in given):
        return int(given[0])
    raise UserError(
        f"{keys.per_token} is not usable",
        where=f"{where}: {keys.per_token}",
        why=f"it is {given!r:.60}, and must be a whole number, or a list of {layers} equal ones: one for each layer",
        fix="correct it, or choose another base",
    )


def _has_mixture(config: Mapping[str, Any], keys: ExpertKeys, layer: int, *, where: str) -> bool:
    if keys.dense == "first":
        return layer >= _whole(config, "first_k_dense_replace", where)
    if keys.dense == "types":
        return _read_types(config, where)[layer] == "sparse"
    if keys.dense == "kinds":
        return bool(config["layer_types"][layer] == "moe")
    if keys.dense == "step":
        every = max(1, _whole(config, "decoder_sparse_step", where, default=1))
        return layer not in _read_dense(config, where) and (layer + 1) % every == 0
    if keys.dense == "range":
        every = max(1, _whole(config, "moe_layer_interval", where, default=1))
        first = _whole(config, "moe_layer_start_index", where)
        last = _whole(config, "moe_layer_end_index", where, default=-1, least=-1)
        return (layer + 1) % every == 0 and layer >= first and (last == -1 or layer <= last)
    return True


def _read_dense(config: Mapping[str, Any], where: str) -> list[int]:
    """``mlp_only_layers``: the layers without a mixture. Raises UserError for what is no list of layers."""
    layers = _whole(config, "num_hidden_layers", where)
    given = config.get("mlp_only_layers")
    given = [] if given is None else given
    if isinstance(given, list) and all(type(layer) is int and 0 <= layer < layers for layer in given):
        return given
    raise UserError(
        "the layers with experts are ambiguous",
        where=f"{where}: mlp_only_layers",
        why=f"it is {given!r:.60}, and must be a list of layers, by numbers from 0 to {layers - 1}",
        fix="correct it",
    )


def _read_types(config: Mapping[str, Any], where: str) -> list[str]:
    """``mlp_layer_types``; without it the first layer is dense. Raises UserError for an entry that no class knows."""
    layers = _whole(config, "num_hidden_layers", where)
    kinds = config.get("mlp_layer_types")
    kinds = ["dense"] + ["sparse"] * (layers - 1) if kinds is None else kinds
    first = config.get("first_k_dense_replace")
    agrees = first is None or kinds == ["dense"] * first + ["sparse"] * (layers - first)
    known = isinstance(kinds, list) and len(kinds) == layers and all(kind in ("dense", "sparse") for kind in kinds)
    if known and agrees:
        return list(kinds)
    raise UserError(
        "the layers with experts are ambiguous",
        where=f"{where}: mlp_layer_types",
        why=f"it is {kinds!r:.60} for {layers} layers"
        + ("" if agrees else f", and first_k_dense_replace is {first}, which the class ignores"),
        fix="give one entry, dense or sparse, for each layer",
    )


def _whole(config: Mapping[str, Any], key: str, where: str, *, default: int | None = None, least: int = 0) -> int:
    value = default if config.get(key) is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
            f"{key} is not usable",
            where=f"{where}: {key}",
            why=f"it is {'missing' if value is None else repr(value)[:60]}, and must be a whole number of {least} or "
            "more",
            fix="correct it",
        )
    return value
