"""Write layers into a config.json: as a class of transformers that runs them, else in our own format.

The inverse of ``read_layers``. Other readers refuse our own format. A pattern often needs another class for the same
weights (a Llama with windows is a Ministral). Classes differ in the defaults for missing keys, so these defaults are
then written out. Where the older keys cannot describe the positions, ``rope_theta`` is null: if the key were missing,
readers of transformers 4 would run theta 10000 without a warning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.rope.layers import LayerPosition, plain_layers
from ropewalk.rope.scaling import Linear, Nope, Unchanged, legacy_hf
from ropewalk.shape.families import OWN_ARCHITECTURE, OWN_TYPE, require_row
from ropewalk.shape.family import Family
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape
from ropewalk.shape.rope_keys import FULL, REACH_KEYS, WINDOWED
from ropewalk.shape.spell_rope import can_spell, find_kept, say_head_dim, spell_rope

POSITION_KEYS = (
    "rope_parameters",
    "rope_theta",
    "rotary_emb_base",
    "rope_scaling",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "layer_types",
    "sliding_window",
    "sliding_window_pattern",
    "use_sliding_window",
    "max_window_layers",
    "no_rope_layers",
    "no_rope_layer_interval",
    OWN_TYPE,
)
"""Every key that describes positions; code that writes new positions removes these keys first."""
STALE_KEYS = ("auto_map", "attn_implementation", "_attn_implementation")
"""Keys that name code to run the model: code files are not copied, and would not support the new positions."""

# Defaults of Llama, Mistral and Ministral for missing keys; SmolLM3 has other defaults.
_ASSUMED: Mapping[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "use_cache": True,
    "attention_dropout": 0.0,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True, slots=True)
class SpelledLayers:
    """The entries of a config.json for its layers. ``native``: a class of transformers runs them, ``architecture``.

    Write ``keys`` after removing ``dropped``. ``legacy``: readers of the keys of transformers 4 run the same.
    ``why_not``: the reason where a folder is not native.
    """

    architecture: str
    model_type: str
    keys: Mapping[str, Any]
    dropped: tuple[str, ...]
    native: bool
    legacy: bool
    why_not: str = ""

    def apply(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``config`` with these layers and no others."""
        return {key: value for key, value in config.items() if key not in self.dropped} | dict(self.keys)


def spell_layers(
    config: Mapping[str, Any], positions: Sequence[LayerPosition], *, context_tokens: int, where: str = "config.json"
) -> SpelledLayers:
    """The entries with which the model of ``config`` runs ``positions``, one per layer, up to ``context_tokens``.

    ``config`` is a model's config.json, whose shape can be read. The class of the model is kept where it can describe
    the positions.
    """
    shape = parse_shape(config, where)
    assert len(positions) == shape.layers
    names = [shape.architecture, *require_row(shape.architecture).kin]
    attending = [layer for layer in positions if layer.mixer is None]
    if any(isinstance(layer.rope, Nope) for layer in attending):
        names.sort(key=lambda name: require_row(name).nope == "never")  # more readers support it than a rope of zeros
    why = ""
    for name in names:
        why = _find_obstacle(require_row(name), shape, attending) or _find_kept_obstacle(config, name, attending)
        if not why:
            return _spell_native(config, shape, name, positions, context_tokens=context_tokens)
    return _spell_own(config, shape, positions, context_tokens=context_tokens, why=why)


def _find_obstacle(family: Family, shape: ModelShape, positions: Sequence[LayerPosition]) -> str:
    """The reason why ``family`` cannot run ``positions`` with the weights of ``shape``; empty if it can."""
    name = family.model_type
    windows = {layer.window_tokens for layer in positions}
    if any(layer.log_n_tokens or layer.bias for layer in positions):
        return "no class of transformers has a length-dependent temperature or biases on such layers"
    if (shape.qkv_bias or shape.mlp_bias) and family.qkv_bias is False:
        return f"{name} has no biases"
    if len(windows - {None}) > 1:
        return f"{name} has one window for all windowed layers"
    if (family.windows == "none" and windows != {None}) or (family.windows == "all" and len(windows) > 1):
        return f"{name} has no layers with windows beside layers without"
    if len({layer.rope.config_tokens(0) for layer in positions} - {0}) > 1:
        return "its layers have different original lengths, and config.json can have only one"
    return _find_nope_obstacle(family, shape, positions) or _find_rope_obstacle(family, shape, positions)


def _find_nope_obstacle(family: Family, shape: ModelShape, positions: Sequence[LayerPosition]) -> str:
    """The reason why the class would turn other layers than those that ``positions`` turn."""
    turning = [not isinstance(layer.rope, Nope) for layer in positions]
    windowed = [layer.window_tokens is not None for layer in positions]
    if family.nope == "full" and turning != windowed:
        return f"{family.model_type} turns the layers with a window, and no others"
    if family.nope == "embedding_type" and set(turning) != {not isinstance(shape.stretched.rope, Nope)}:
        return f"{family.model_type} turns all its layers or none"
    if family.nope == "always" and any(turning):
        return f"{family.model_type} has no RoPE"
    if family.nope == "null_theta" and len(set(turning)) > 1:
        return f"{family.model_type} turns all its layers or none"
    if family.nope == "full_beside_windows" and any(windowed) and turning != windowed:
        return f"{family.model_type} turns only the layers with a window where there are some"
    return ""


def _find_kept_obstacle(config: Mapping[str, Any], name: str, positions: Sequence[LayerPosition]) -> str:
    """The reason why a key of the rope block cannot be both the method's and what the class uses it for besides."""
    kept = find_kept(config, require_row(name))
    for key in kept:
        if any(layer.rope.to_hf(layer.theta).get(key, kept[key]) != kept[key] for layer in positions):
            return f"{key} of {require_row(name).model_type} also scales its queries, so it must stay {kept[key]}"
    return ""


def _find_rope_obstacle(family: Family, shape: ModelShape, positions: Sequence[LayerPosition]) -> str:
    groups = _group(family, positions)
    for kind, layers in groups.items():
        if family.methods and any(not can_spell(layer, family, shape) for layer in layers):
            return f"{family.model_type} runs {' and '.join(family.methods)} only, and these angles are neither"
        ropes = [spell_rope(layer, family, shape) for layer in layers]
        if any(rope != ropes[0] for rope in ropes):
            which = "all layers" if family.ropes == "one" else f"all layers of {kind}"
            return f"{family.model_type} has one RoPE for {which} with RoPE"
        if family.ropes == "by_type" and ropes and ropes[0].get("truncate") is False:
            return "transformers reads truncate: false only where all layers share one RoPE"
    return ""


def _group(family: Family, positions: Sequence[LayerPosition]) -> dict[str, list[LayerPosition]]:
    """The groups of layers that must share one RoPE in this class."""
    layers = [layer for layer in positions if family.nope == "never" or not isinstance(layer.rope, Nope)]
    if family.ropes == "one":
        return {FULL: layers}
    return {kind: [layer for layer in layers if _kind(layer) == kind] for kind in (FULL, WINDOWED)}


def _kind(layer: LayerPosition) -> str:
    return FULL if layer.window_tokens is None else WINDOWED


def _spell_native(
    config: Mapping[str, Any],
    shape: ModelShape,
    name: str,
    positions: Sequence[LayerPosition],
    *,
    context_tokens: int,
) -> SpelledLayers:
    family = require_row(name)
    tokens = min(layer.rope.config_tokens(context_tokens) for layer in positions)
    ropes, legacy = _spell_ropes(config, family, shape, positions)
    keys = {
        "architectures": [name],
        "model_type": family.model_type,
        "max_position_embeddings": tokens,
        **_raise_lengths(config, context_tokens),
        **({} if name == shape.architecture else _say_aloud(config, shape, family)),
        **({} if family.nope == "always" else _spell_windows(family, positions)),
        **_spell_original(positions),
        **say_head_dim(config, shape, positions),
        **dict.fromkeys(family.no_dropout, 0.0),
        **ropes,
    }
    dropped = (*POSITION_KEYS, *STALE_KEYS) if family.nope != "always" else STALE_KEYS  # its layers are as before
    return SpelledLayers(name, family.model_type, keys, dropped, native=True, legacy=legacy)


def _raise_lengths(config: Mapping[str, Any], context_tokens: int) -> dict[str, int]:
    """Raise the file's other keys for the context and for the generated length: a reader takes the least of them."""
    given = {key: config[key] for key in (*REACH_KEYS, "max_length") if type(config.get(key)) is int}
    return {key: context_tokens for key, tokens in given.items() if tokens < context_tokens}


def _spell_original(positions: Sequence[LayerPosition]) -> dict[str, int]:
    """The length that a linear block's factor counts from; the block itself has no key for it."""
    ropes = [layer.rope for layer in positions if isinstance(layer.rope, Linear)]
    lengths = {rope.original_tokens for rope in ropes if rope.original_tokens is not None}
    return {"original_max_position_embeddings": lengths.pop()} if len(lengths) == 1 else {}


def _say_aloud(config: Mapping[str, Any], shape: ModelShape, family: Family) -> dict[str, Any]:
    """The defaults of the model's own class that the new class may not have."""
    assumed = {} if family.assumes_more else _ASSUMED  # its kin assumes the same as itself
    return {
        **{key: config.get(key, value) for key, value in assumed.items()},
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied,
        "attention_bias": shape.output_bias,
        "mlp_bias": shape.mlp_bias,
    }


def _spell_windows(family: Family, positions: Sequence[LayerPosition]) -> dict[str, Any]:
    if family.recurrent is not None and not family.recurrent.word:
        return {}
    if family.recurrent is not None and family.windows == "none":
        word = family.recurrent.word
        return {"layer_types": [(family.layer_word or FULL) if each.mixer is None else word for each in positions]}
    if family.windows == "none":
        return {"layer_types": [family.layer_word] * len(positions)} if family.layer_word else {}
    windows = [layer.window_tokens for layer in positions if layer.window_tokens is not None]
    window = windows[0] if windows else None
    if family.windows == "all":
        return {"sliding_window": window}
    keys: dict[str, Any] = {"sliding_window": window, "layer_types": [_kind(layer) for layer in positions]}
    if family.window_switch:
        keys["use_sliding_window"] = window is not None
    elif window is None and family.nope != "full_beside_windows":
        keys["sliding_window"] = (
            family.window_tokens
        )  # no layer uses it, but the class builds a mask from it and fails at null
    if family.nope == "switch":
        keys["no_rope_layers"] = [int(not isinstance(layer.rope, Nope)) for layer in positions]
    return keys


def _spell_ropes(
    config: Mapping[str, Any], family: Family, shape: ModelShape, positions: Sequence[LayerPosition]
) -> tuple[dict[str, Any], bool]:
    """The keys of both formats, and whether the older ones describe the same."""
    positions = [layer for layer in positions if layer.mixer is None]
    if family.nope == "always":
        return {}, True
    if family.nope == "null_theta" and all(isinstance(layer.rope, Nope) for layer in positions):
        return {"rope_parameters": {"rope_type": "default", "rope_theta": None}, "rope_theta": None}, True
    groups = _group(family, positions)
    first = positions[0].model_copy(update={"rope": Unchanged()})  # for a layer type without layers
    kept = find_kept(config, family)
    ropes = {kind: spell_rope((layers or [first])[0], family, shape) | kept for kind, layers in groups.items()}
    full = ropes[FULL]
    share = {"partial_rotary_factor": shape.rotary_share} if family.partial else {}
    if family.ropes == "one":
        older = {{"rope_theta": family.theta_key}.get(key, key): value for key, value in legacy_hf(full).items()}
        return {"rope_parameters": full, **share, **older}, True
    if not groups[FULL]:
        full = ropes[FULL] = ropes[WINDOWED]
    windowed = ropes[WINDOWED] if groups[WINDOWED] else Unchanged().to_hf(full["rope_theta"])
    own_key = family.window_theta_key != "rope_theta"
    told = windowed["rope_type"] == "default" and (own_key or windowed["rope_theta"] == full["rope_theta"])
    older = legacy_hf(full) if told else {"rope_theta": None}
    if own_key:
        older[family.window_theta_key] = windowed["rope_theta"] if told else None
    return {"rope_parameters": {FULL: full, WINDOWED: windowed}, **older}, told


def _spell_own(
    config: Mapping[str, Any],
    shape: ModelShape,
    positions: Sequence[LayerPosition],
    *,
    context_tokens: int,
    why: str,
) -> SpelledLayers:
    """The usual keys describe the same weights with plain RoPE everywhere; only our key holds the positions."""
    family = require_row(shape.architecture)
    both = zip(shape.positions, plain_layers(shape.layers, shape.theta), strict=True)
    plain = [own if own.mixer is not None else simple for own, simple in both]
    ropes, _ = _spell_ropes(config, family, shape, plain)
    layers = [layer.model_dump(mode="json", exclude_none=True) for layer in positions]
    keys = {
        "architectures": [OWN_ARCHITECTURE],
        "model_type": OWN_TYPE,
        "max_position_embeddings": context_tokens,
        **_raise_lengths(config, context_tokens),
        **_spell_windows(family, plain),
        **dict.fromkeys(family.no_dropout, 0.0),
        **ropes,
        OWN_TYPE: {"architecture": shape.architecture, "model_type": family.model_type, "layers": layers},
    }
    dropped = (*POSITION_KEYS, *STALE_KEYS)
    return SpelledLayers(OWN_ARCHITECTURE, OWN_TYPE, keys, dropped, native=False, legacy=False, why_not=why)
