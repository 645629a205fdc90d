"""Models whose layers differ in size, such as Gemma 4: heads of two widths, and layers that use the keys of others.

Layers that attend to all tokens and layers with a window have heads of their own. The last layers may compute no keys
and values: they take those of the last layer of their kind before them. An embedding of its own may enter each layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.rope.layers import LayerPosition

_DEFAULT_HEAD_DIM, _DEFAULT_INPUTS, _DEFAULT_VOCABULARY = 512, 256, 262_144


@dataclass(frozen=True, slots=True)
class Unequal:
    """What differs between the layers of a model; its shape has the heads of layers that attend to all tokens.

    Layers with a window have ``window_kv_heads`` of ``window_head_dim``. ``keys_are_values``: the others have no matrix
    for values. The last ``sharing`` layers have no keys and values of their own; with ``wide_mlp`` their MLP is twice
    as wide. ``input_width`` numbers of a second embedding, which has ``input_rows``, enter each layer; 0 for none.
    """

    window_kv_heads: int
    window_head_dim: int
    keys_are_values: bool = False
    sharing: int = 0
    wide_mlp: bool = False
    input_width: int = 0
    input_rows: int = 0

    def matrices(self, width: int, *, queries: int, keys: int, full: bool, shares: bool) -> dict[str, tuple[int, int]]:
        """Input and output width of each matrix of a layer's attention, by the names of Llama.

        ``queries`` and ``keys`` are the widths of all heads together. The layer is ``full`` if it has no window, and
        ``shares`` says whether it uses the keys of another.
        """
        own = {} if shares else {"k_proj": (width, keys)}
        if own and not (full and self.keys_are_values):
            own |= {"v_proj": (width, keys)}
        return {"q_proj": (width, queries), **own, "o_proj": (queries, width)}

    def input_parameters(self, width: int, layers: int) -> int:
        """Parameters of the second embedding, its projection and its norm, outside of the layers."""
        each = layers * self.input_width
        return self.input_rows * each + width * each + self.input_width

    def input_products(self, width: int, layers: int) -> int:
        """Multiplications of a token by the matrices of the second embedding: one for all layers, and two in each."""
        return 3 * width * layers * self.input_width


def read_unequal(
    config: Mapping[str, Any],
    positions: Sequence[LayerPosition],
    *,
    kv_heads: int,
    head_dim: int,
    count: Callable[..., int],
    where: str,
) -> tuple[int, int, Unequal]:
    """The key heads of layers that attend to all tokens, their width, and what differs; from a config.json of Gemma 4.

    ``kv_heads`` and ``head_dim`` are those of layers with a window; ``count`` reads a whole number by its key. Raises
    UserError for layers that no class of transformers builds.
    """
    same = bool(config.get("attention_k_eq_v"))
    full_kv_heads, full_head_dim = _read_full_heads(config, positions, kv_heads, head_dim, same, count, where)
    inputs = config.get("hidden_size_per_layer_input", _DEFAULT_INPUTS)
    sharing = config.get("num_kv_shared_layers") or 0
    kinds = [layer.window_tokens is None for layer in positions]
    if not kinds[-1]:
        raise _unclear("layer_types", "the last layer has a window, and the class gives it none", where)
    if isinstance(sharing, bool) or not isinstance(sharing, int) or not 0 <= sharing < len(kinds):
        raise _unclear("num_kv_shared_layers", f"it is {sharing!r:.60} of {len(kinds)} layers", where)
    if sharing and set(kinds[:-sharing]) != set(kinds):
        raise _unclear("num_kv_shared_layers", f"before the last {sharing} layers one kind of layers is missing", where)
    found = Unequal(
        kv_heads,
        head_dim,
        keys_are_values=same,
        sharing=sharing,
        wide_mlp=bool(config.get("use_double_wide_mlp")),
        input_width=count("hidden_size_per_layer_input", default=_DEFAULT_INPUTS) if inputs else 0,
        input_rows=count("vocab_size_per_layer_input", default=_DEFAULT_VOCABULARY) if inputs else 0,
    )
    return full_kv_heads, full_head_dim, found


def _read_full_heads(
    config: Mapping[str, Any],
    positions: Sequence[LayerPosition],
    kv_heads: int,
    head_dim: int,
    same: bool,
    count: Callable[..., int],
    where: str,
) -> tuple[int, int]:
    """From the keys of published files, or from ``per_layer_config``, as transformers saves it."""
    full = {index for index, layer in enumerate(positions) if layer.window_tokens is None}
    given: Any = config.get("per_layer_config")
    if not isinstance(given, Mapping | None):
        raise _unclear("per_layer_config", f"it is {given!r:.60}", where)
    if given is None:
        width = count("global_head_dim", default=_DEFAULT_HEAD_DIM)
        told = same and config.get("num_global_key_value_heads") is not None
        return (count("num_global_key_value_heads") if told else kv_heads), width
    named = {int(key) if str(key).isdecimal() else key: entry for key, entry in given.items()}  # "05" of 60 layers
    entry = next(iter(named.values()), None)
    alike = isinstance(entry, Mapping) and all(each == entry for each in named.values())
    sizes = dict(entry) if isinstance(entry, Mapping) else {}
    found = sizes.pop("num_key_value_heads", kv_heads), sizes.pop("head_dim", head_dim)
    if not alike or sizes or set(named) != full or not all(type(each) is int and each > 0 for each in found):
        raise _unclear(
            "per_layer_config", f"it is {given!r:.60}, and must give heads of all layers without window", where
        )
    return found


def refuse_pattern() -> UserError:
    """The refusal of a pattern of layers: another window would need other heads."""
    return UserError(
        "this model cannot have a pattern of layers",
        where="layers",
        why="its layers with a window have other heads than those without",
        fix="remove layers; then the method is for those without a window",
    )


def _unclear(key: str, why: str, where: str) -> UserError:
    return UserError("the layers of this model are ambiguous", where=f"{where}: {key}", why=why, fix="correct it")
