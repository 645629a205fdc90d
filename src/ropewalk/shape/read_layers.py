"""The positions of each layer, from a config.json: its RoPE or none, and its window.

Each class has its own keys and its own defaults. SmolLM3's switch for windows puts them on the layers *without* RoPE,
unless ``layer_types`` differs. Every published hybrid does the opposite.
"""

from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.rope.layers import MLP, LayerPosition
from ropewalk.rope.scaling import Nope, Rope, Unchanged, read_method
from ropewalk.shape.families import OWN_TYPE
from ropewalk.shape.family import Family
from ropewalk.shape.open_blocks import refuse_open_blocks
from ropewalk.shape.recurrent import hide_recurrent, list_recurrent
from ropewalk.shape.rope_keys import FULL, WINDOWED, read_ropes
from ropewalk.shape.single_layers import list_mlps

_NEEDED = ("theta", "factor", "original_tokens", "short_factor", "long_factor", "wavelengths_tokens")
"""The fields that must be filled in a method that a model runs, if the method has them."""
_OPEN = {("linear", "original_tokens")}
"""Fields that a file may leave open; then the user who stretches the model must give the value."""
_LAYERS: TypeAdapter[tuple[LayerPosition, ...]] = TypeAdapter(tuple[LayerPosition, ...])


def read_layers(
    config: Mapping[str, Any], family: Family, *, layers: int, context_tokens: int, where: str
) -> tuple[LayerPosition, ...]:
    """One value per layer. Raises UserError for entries that the class would ignore, misread or not run."""
    ropes = read_ropes(config, family, context_tokens=context_tokens, where=where)
    if OWN_TYPE in config:
        found = _read_own(config[OWN_TYPE], layers=layers, where=f"{where}: {OWN_TYPE}.layers")
    else:
        others = hide_recurrent(config, family)
        found = _read_theirs(others, family, ropes, layers=layers, where=where)
        recurrent = list_recurrent(config, family, layers=layers, where=where)
        alone = list_mlps(config, family)
        found = tuple(
            _mix(family, layer, recurs=index in recurrent) if index in (*recurrent, *alone) else layer
            for index, layer in enumerate(found)
        )
    for rope in {layer.rope: None for layer in found}:
        needed = [name for name in _NEEDED if name in type(rope).model_fields and (rope.kind, name) not in _OPEN]
        if missing := [name for name in needed if getattr(rope, name) is None]:
            raise UserError(
                f"the {rope.kind} rope of this model is incomplete",
                where=where,
                why=f"it has no {' and no '.join(missing)}",
                fix="correct config.json",
            )
    return found


def _read_theirs(
    config: Mapping[str, Any], family: Family, ropes: Mapping[str, Mapping[str, Any]], *, layers: int, where: str
) -> tuple[LayerPosition, ...]:
    window = _read_window(config, family, where)
    switched = [True] * layers
    if family.nope == "switch":
        switched = _read_turning(config, family, kinds=None, layers=layers, where=where)
    kinds = _read_kinds(config, family, turning=switched, window=window, where=where)
    if family.ropes == "by_type":
        refuse_open_blocks(config, family, kinds, where)
    turning = _read_turning(config, family, kinds=kinds, layers=layers, where=where)
    methods = {
        kind: LayerPosition(
            rope=cast(Rope, Unchanged() if values["rope_type"] == "default" else read_method(values, where=where)),
            theta=values["rope_theta"],
            window_tokens=window if kind == WINDOWED else None,
        )
        for kind, values in ropes.items()
    }
    return tuple(
        methods[kind] if turns else methods[kind].model_copy(update={"rope": Nope()})
        for kind, turns in zip(kinds, turning, strict=True)
    )


def _mix(family: Family, attending: LayerPosition, *, recurs: bool) -> LayerPosition:
    """A layer with the family's recurrence, in place of ``attending`` or beside it, or with an MLP alone."""
    assert family.recurrent is not None
    if recurs and family.recurrent.beside:
        return attending.model_copy(update={"beside": family.recurrent.kind})
    return LayerPosition(rope=Nope(), theta=family.theta, mixer=family.recurrent.kind if recurs else MLP)


def _read_own(own: Mapping[str, Any], *, layers: int, where: str) -> tuple[LayerPosition, ...]:
    try:
        found = _LAYERS.validate_python(own.get("layers"))
    except ValidationError as error:
        first = error.errors()[0]
        raise _unclear(where, f"{'.'.join(map(str, first['loc']))}: {first['msg']}", "get the folder again") from None
    if len(found) != layers:
        raise _unclear(
            where,
            f"it has {format_count(len(found), 'entry')} for {format_count(layers, 'layer')}",
            "get the folder again",
        )
    return found


def _read_turning(
    config: Mapping[str, Any], family: Family, *, kinds: list[str] | None, layers: int, where: str
) -> list[bool]:
    """Which layers rotate, by a list (where 1 means that a layer does) or by ``kinds``, the layers with a window."""
    if family.nope in ("never", "always"):
        return [family.nope == "never"] * layers
    if family.nope == "null_theta":
        return [_has_theta(config)] * layers
    if family.nope == "embedding_type":
        return [_turns_by_type(config, where)] * layers
    if family.nope != "switch":
        assert kinds is not None
        windowed = [kind == WINDOWED for kind in kinds]
        has_windows = config.get("sliding_window", family.window_tokens) is not None
        return windowed if family.nope == "full" or has_windows else [True] * layers
    given = config.get("no_rope_layers")
    if given is None:
        interval = _read_whole(config, "no_rope_layer_interval", 4, where)
        return [bool((layer + 1) % interval) for layer in range(layers)]
    if not isinstance(given, list) or len(given) < layers or not all(flag in (0, 1) for flag in given):
        raise _unclear(f"{where}: no_rope_layers", f"it is {given!r}", f"give {layers} entries of 0 or 1")
    return [bool(flag) for flag in given[:layers]]


def _has_theta(config: Mapping[str, Any]) -> bool:
    """Whether the class builds a RoPE: a missing theta has a default, and null says that there is none."""
    blocks = [config.get("rope_scaling"), config.get("rope_parameters")]
    block = next((block for block in blocks if isinstance(block, Mapping) and block), {})
    return block.get("rope_theta", config.get("rope_theta", "default")) is not None


def _turns_by_type(config: Mapping[str, Any], where: str) -> bool:
    kind = config.get("position_embedding_type")
    if kind not in ("rope", "nope"):
        found = "missing" if "position_embedding_type" not in config else repr(kind)
        raise _unclear(f"{where}: position_embedding_type", f"it is {found}", "give rope, or nope for no positions")
    return bool(kind == "rope")


def _read_window(config: Mapping[str, Any], family: Family, where: str) -> int | None:
    if family.windows == "none" or (family.window_switch and not config.get("use_sliding_window")):
        return None
    if config.get("sliding_window", family.window_tokens) is None:
        return None
    return _read_whole(config, "sliding_window", family.window_tokens, where)


def _read_kinds(
    config: Mapping[str, Any], family: Family, *, turning: list[bool], window: int | None, where: str
) -> list[str]:
    """``FULL`` or ``WINDOWED`` per layer."""
    layers = len(turning)
    given = config.get("layer_types")
    if not isinstance(given, list | None):
        raise _unclear(f"{where}: layer_types", f"it is {given!r:.60}", f"give {layers} entries, or none")
    kinds = _assume_kinds(config, family, turning=turning, window=window, where=where) if given is None else list(given)
    kinds = [FULL if kind == family.layer_word else kind for kind in kinds]
    where = f"{where}: layer_types"
    if given is None and family.layer_word:
        raise _unclear(
            where, f"it is missing, and {family.model_type} then has no attention", "download the file again"
        )
    if strangers := sorted({str(kind) for kind in kinds} - {FULL, WINDOWED}):
        raise UserError(
            f"layers of type {', '.join(strangers)} are not supported",
            where=where,
            why=f"a layer must attend to all earlier tokens ({FULL}) or to a window of them ({WINDOWED})",
            fix="choose another base",
        )
    if len(kinds) != layers:
        raise _unclear(
            where, f"it has {format_count(len(kinds), 'entry')} for {format_count(layers, 'layer')}", "correct it"
        )
    runs = {"none": [FULL] * layers, "all": [WINDOWED if window else FULL] * layers, "some": kinds}[family.windows]
    if kinds != runs:
        raise _unclear(
            where,
            f"it names windows for {kinds.count(WINDOWED)} of {layers} layers, and {family.model_type} ignores it",
            "name a class that has layer_types, such as MinistralForCausalLM",
        )
    if window is None and WINDOWED in kinds:
        switch = ", or use_sliding_window is not true" if family.window_switch else ""
        raise _unclear(where, f"it names {WINDOWED} layers, and sliding_window is null{switch}", "correct one of them")
    return kinds


def _assume_kinds(
    config: Mapping[str, Any], family: Family, *, turning: list[bool], window: int | None, where: str
) -> list[str]:
    """The default of each class for ``layer_types`` where the file has none."""
    layers = len(turning)
    if window is None and family.ropes == "one":
        return [FULL] * layers
    if family.window_every:
        every = _read_period(config, family, layers=layers, where=where)
        kinds = list(islice(cycle(every), layers))
        return [*kinds[:-1], FULL] if family.unequal else kinds  # such a class lets the last layer see all tokens
    if window is None:
        return [FULL] * layers
    if family.window_rule == "later":
        first = _read_whole(config, "max_window_layers", 28, where, least=0)
        return [WINDOWED if layer >= first else FULL for layer in range(layers)]
    if family.window_rule == "nope":
        return [FULL if turns else WINDOWED for turns in turning]
    return [WINDOWED] * layers


def _read_period(config: Mapping[str, Any], family: Family, *, layers: int, where: str) -> list[str]:
    """The kinds that repeat: all but the last have a window. A file may give the period.

    The class fails at a period in letters, such as LLLG, unless the file has ``layer_types``.
    """
    key = family.window_every_key
    given = config.get(key) if key else None
    if isinstance(given, str):
        told = f"it is {given!r:.60}, and {family.model_type} lists its layers by a number, or by layer_types"
        raise _unclear(f"{where}: {key}", told, "add layer_types, with one entry per layer, or give the period")
    every = family.window_every if given is None else _read_whole(config, key, None, where)
    every = min(every, layers + 1)  # a longer period has no full layer either
    return [WINDOWED] * (every - 1) + [FULL]


def _read_whole(config: Mapping[str, Any], key: str, default: int | None, where: str, *, least: int = 1) -> int:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _unclear(f"{where}: {key}", f"it is {value!r}, and must be a whole number from {least} on", "correct it")
    return value


def _unclear(where: str, why: str, fix: str) -> UserError:
    return UserError("the kinds of the layers are ambiguous", where=where, why=why, fix=fix)
