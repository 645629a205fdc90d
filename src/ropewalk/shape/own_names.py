"""Entries of a config.json under names that only one class has, under the usual ones (Kimi Linear).

Its file keeps the numbers of its recurrent layers in a mapping, with layers counted from 1.
"""

from collections.abc import Mapping
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.shape.family import Family
from ropewalk.shape.rope_keys import FULL

NESTED_KEY, KINDS = "linear_attn_config", {"full_attn_layers": FULL, "kda_layers": "linear_attention"}
_SIZES = {
    "head_dim": "linear_head_dim",
    "num_heads": "linear_num_heads",
    "short_conv_kernel_size": "linear_conv_kernel_dim",
}


def rename_keys(config: Mapping[str, Any], family: Family, where: str) -> Mapping[str, Any]:
    """``config`` with the usual names of a family's own keys; others as given.

    Raises UserError where a file has both names with different values, and where no key says which layers recur.
    """
    if not family.own_names:
        return config
    found = {key: value for key, value in config.items() if key != "head_dim"}  # the class sets its own
    for own, usual in family.own_names.items():
        if config.get(own) is None:
            continue
        if config.get(usual, config[own]) not in (config[own], None):
            told = (
                f"{own} is {config[own]!r:.60}, {usual} is {config[usual]!r:.60}, and the class has one number for both"
            )
            raise _unclear(f"{where}: {usual}", told)
        found[usual] = config[own]
    nested = config.get(NESTED_KEY) or {}
    if not isinstance(nested, Mapping):
        raise _unclear(f"{where}: {NESTED_KEY}", f"it is {nested!r:.60}, and must be a mapping")
    found |= {usual: nested[own] for own, usual in _SIZES.items() if own in nested}
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and found.get("mlp_layer_types") is None:
        first = config.get("first_k_dense_replace", 1)
        first = first if type(first) is int else 1
        found["mlp_layer_types"] = ["dense" if layer < first else "sparse" for layer in range(layers)]
    if found.get("layer_types") is None:
        found["layer_types"] = _list_kinds(nested, layers, where)
    return found


def _list_kinds(nested: Mapping[str, Any], layers: Any, where: str) -> list[str]:
    named = [(layer, kind) for key, kind in KINDS.items() for layer in _list_numbers(nested, key, where)]
    kinds, told = dict(named), len(named)
    if not isinstance(layers, int) or told != layers or set(kinds) != set(range(1, layers + 1)):
        raise _unclear(
            f"{where}: {NESTED_KEY}",
            f"{' and '.join(KINDS)} name {told} of {layers} layers, and must name each once, from 1 on",
        )
    return [kinds[layer] for layer in range(1, layers + 1)]


def _list_numbers(nested: Mapping[str, Any], key: str, where: str) -> list[int]:
    given = nested.get(key) or []
    if not isinstance(given, list) or not all(type(each) is int for each in given):
        raise _unclear(f"{where}: {NESTED_KEY}.{key}", f"it is {given!r:.60}, and must be a list of numbers of layers")
    return given


def _unclear(where: str, why: str) -> UserError:
    return UserError("the keys of this class are ambiguous", where=where, why=why, fix="correct config.json")
