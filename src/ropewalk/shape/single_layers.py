"""Layers that are one thing each: attention, a recurrence, an MLP or a mixture of experts (Nemotron-H).

A file names them in a list (``layers_block_type``, or ``layer_types``) or by a letter each
(``hybrid_override_pattern``); the list wins in the class of transformers. The number of layers follows from it.
"""

from collections.abc import Mapping
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.shape.family import MLP_ALONE, Family
from ropewalk.shape.rope_keys import FULL

LIST_KEYS, PATTERN_KEY = ("layers_block_type", "layer_types"), "hybrid_override_pattern"
RECURRENT = "linear_attention"
_LETTERS = {"M": RECURRENT, "*": FULL, "-": "mlp", "E": "moe"}
_WORDS = {"mamba": RECURRENT, "attention": FULL, **{word: word for word in _LETTERS.values()}}


def list_single(config: Mapping[str, Any], family: Family, where: str) -> Mapping[str, Any]:
    """``config`` with ``layer_types`` and their number, for a family whose layers are one thing each; others as given.

    Raises UserError for kinds that the class does not have, and for two keys that disagree.
    """
    if not family.single:
        return config
    key = next((key for key in (*LIST_KEYS, PATTERN_KEY) if config.get(key) is not None), None)
    if key is None:
        raise _unclear(f"{where}: {PATTERN_KEY}", "it is missing, and the default of the class is another model's")
    given, names = config[key], _LETTERS if key == PATTERN_KEY else _WORDS
    whole = isinstance(given, str) if key == PATTERN_KEY else isinstance(given, list)
    if not whole or not given or any(not isinstance(each, str) or each not in names for each in given):
        raise _unclear(f"{where}: {key}", f"it is {given!r:.60}, and must name each layer: {', '.join(names)}")
    kinds = [names[each] for each in given]
    pattern = config.get(PATTERN_KEY)
    letters = [_LETTERS.get(each) for each in pattern] if isinstance(pattern, str) else None
    if key != PATTERN_KEY and pattern is not None and letters != kinds:
        raise _unclear(f"{where}: {PATTERN_KEY}", f"it names other layers than {key}, which the class reads")
    if config.get("num_hidden_layers") not in (None, len(kinds)):
        told = f"it is {config['num_hidden_layers']!r:.60}, and {key} names {format_count(len(kinds), 'layer')}"
        raise _unclear(f"{where}: num_hidden_layers", told)
    return {**config, "layer_types": kinds, "num_hidden_layers": len(kinds)}


def list_mlps(config: Mapping[str, Any], family: Family) -> tuple[int, ...]:
    """The layers that are an MLP or a mixture alone; none for a family whose layers have a mixer and an MLP."""
    if not family.single:
        return ()
    return tuple(layer for layer, kind in enumerate(config["layer_types"]) if kind in MLP_ALONE)


def _unclear(where: str, why: str) -> UserError:
    return UserError("the kinds of the layers are ambiguous", where=where, why=why, fix="correct it")
