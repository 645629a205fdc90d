"""Reads the sizes of recurrent layers from a config.json: a reader for each layout of ``RecurrentKeys``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.shape.family import Family, RecurrentKeys
from ropewalk.shape.recurrent import RecurrentLayers, list_recurrent

Count = Callable[..., int]


def read_sizes(keys: RecurrentKeys, layers: tuple[int, ...], sizes: Mapping[str, int]) -> RecurrentLayers:
    """Layers of the sizes that a config.json would have under these keys."""
    return _READERS[keys.layout](keys, layers, lambda key, **_: sizes[key], "layers")


def read_recurrent(
    config: Mapping[str, Any], family: Family, *, layers: int, count: Count, where: str
) -> RecurrentLayers | None:
    """The recurrent layers of a config.json; None for a model without. ``count`` reads a whole number by its key.

    Raises UserError for numbers that do not fit each other.
    """
    keys, found = family.recurrent, list_recurrent(config, family, layers=layers, where=where)
    if keys is None or not found:
        return None
    if keys.layout == "lightning":
        return _read_lightning(config, keys, found, count, where)
    if keys.layout == "falcon_h1":
        return _read_falcon(config, keys, found, count, where)
    made = _READERS[keys.layout](keys, found, count, where)
    if keys.layout == "mamba2":
        _check_head(config, made, "mamba_expand x hidden_size", where)
    return made


def _check_head(config: Mapping[str, Any], made: RecurrentLayers, inner: str, where: str) -> None:
    own = config.get("mamba_d_head", "auto")
    if own not in ("auto", None, made.value_dim):
        raise UserError(
            "the heads of the recurrent layers do not fit each other",
            where=f"{where}: mamba_d_head",
            why=f"it is {own!r:.60}, and {inner} / mamba_n_heads is {made.value_dim}",
            fix="correct config.json",
        )


def _read_gated_delta(keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str) -> RecurrentLayers:
    width, heads, key_heads = count("hidden_size"), count("linear_num_value_heads"), count("linear_num_key_heads")
    key_dim, value_dim = count("linear_key_head_dim"), count("linear_value_head_dim")
    values = heads * value_dim
    channels = 2 * key_heads * key_dim + values
    outs = {
        "qwen3_next": {"in_proj_qkvz": channels + values, "in_proj_ba": 2 * heads},
        "qwen3_5": {"in_proj_qkv": channels, "in_proj_z": values, "in_proj_b": heads, "in_proj_a": heads},
    }[keys.layout]
    matrices = (*((name, width, out) for name, out in outs.items()), ("out_proj", values, width))
    sizes = _Delta(heads, key_heads, key_dim, value_dim, taps=count("linear_conv_kernel_dim"), steps=heads)
    return sizes.make(keys, layers, matrices, where)


def _read_olmo_delta(keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str) -> RecurrentLayers:
    """OLMo hybrid: six matrices; heads as in attention, with keys of three quarters of the width, unless told."""
    width, usual = count("hidden_size"), count("num_attention_heads")
    heads, key_heads = (count(f"linear_num_{each}_heads", default=usual) for each in ("value", "key"))
    key_dim = count("linear_key_head_dim", default=int(0.75 * width / key_heads))
    value_dim = count("linear_value_head_dim", default=2 * key_dim)
    read, values = key_heads * key_dim, heads * value_dim
    outs = {"q": read, "k": read, "v": values, "a": heads, "b": heads, "g": values}
    matrices = (*((f"{name}_proj", width, out) for name, out in outs.items()), ("o_proj", values, width))
    sizes = _Delta(heads, key_heads, key_dim, value_dim, taps=count("linear_conv_kernel_dim", default=4), steps=heads)
    return sizes.make(keys, layers, matrices, where)


def _read_kda(keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str) -> RecurrentLayers:
    """Kimi Linear: decays and gates come from matrices of low rank, and each number of a key has its decay."""
    width, heads, dim = count("hidden_size"), count("linear_num_heads"), count("linear_head_dim")
    inner = heads * dim
    matrices = [(f"{each}_proj", width, inner) for each in "qkv"] + [("b_proj", width, heads), ("o_proj", inner, width)]
    matrices += [size for each in "fg" for size in ((f"{each}_a_proj", width, dim), (f"{each}_b_proj", dim, inner))]
    sizes = _Delta(heads, heads, dim, dim, taps=count("linear_conv_kernel_dim"), steps=inner)
    return sizes.make(keys, layers, tuple(matrices), where)


@dataclass(frozen=True, slots=True)
class _Delta:
    """Sizes of a delta rule; ``steps`` are the decays of a token."""

    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    taps: int
    steps: int

    def make(
        self, keys: RecurrentKeys, layers: tuple[int, ...], matrices: tuple[tuple[str, int, int], ...], where: str
    ) -> RecurrentLayers:
        """Queries, keys and values pass a convolution; each head has a number A, and one norm serves all heads."""
        _require_groups(self.heads, self.key_heads, where)
        channels = 2 * self.key_heads * self.key_dim + self.heads * self.value_dim
        others = channels * self.taps + self.heads + self.steps + self.value_dim
        sizes = self.heads, self.key_dim, self.value_dim
        return RecurrentLayers(keys.kind, keys.layout, layers, matrices, others, channels, self.taps, *sizes)


def _read_convolution(keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str) -> RecurrentLayers:
    """LFM2: a convolution of the width between two gates."""
    width, taps = count("hidden_size"), count("conv_L_cache", default=3)
    matrices = (("in_proj", width, 3 * width), ("out_proj", width, width))
    return RecurrentLayers(
        keys.kind, keys.layout, layers, matrices, other_parameters=width * taps, channels=width, taps=taps
    )


def _read_mamba2(keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str) -> RecurrentLayers:
    """Mamba-2 with the keys of Bamba: gate, inputs, B, C and steps are one matrix."""
    return _size_mamba2(keys, layers, count, count("mamba_expand") * count("hidden_size"), where)


def _read_falcon(
    config: Mapping[str, Any], keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str
) -> RecurrentLayers:
    """Falcon-H1: Mamba-2 of a width of its own, and without a norm unless the file asks for it."""
    own = not ("mamba_d_ssm" in config and config["mamba_d_ssm"] is None)
    inner = count("mamba_d_ssm") if own else count("mamba_expand") * count("hidden_size")
    made = _size_mamba2(keys, layers, count, inner, where)
    _check_head(config, made, "mamba_d_ssm" if own else "mamba_expand x hidden_size", where)
    if not config.get("mamba_rms_norm"):
        return replace(made, other_parameters=made.other_parameters - inner, normed=False)
    if config.get("mamba_norm_before_gate", True):
        raise UserError(
            "the order of norm and gate is ambiguous",
            where=f"{where}: mamba_norm_before_gate",
            why="it is true, and the class then has the norm first, but the gate first in training with mamba-ssm",
            fix="set it to false if the model was trained with the gate first, else choose another base",
        )
    return made


def _size_mamba2(keys: RecurrentKeys, layers: tuple[int, ...], count: Count, inner: int, where: str) -> RecurrentLayers:
    """Mamba-2 whose heads are ``inner`` wide together; its output passes a gated norm."""
    taps, heads = count("mamba_d_conv"), count("mamba_n_heads")
    _require_groups(inner, heads, where)
    sizes = heads, count("mamba_d_state"), inner // heads
    return _make_mamba2(keys, layers, count, where, sizes, groups=count("mamba_n_groups"), taps=taps)


def _read_mamba2_heads(keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str) -> RecurrentLayers:
    """Mamba-2 with the keys of Nemotron-H, whose inner width follows from the heads."""
    sizes = count("mamba_num_heads"), count("ssm_state_size"), count("mamba_head_dim")
    return _make_mamba2(keys, layers, count, where, sizes, groups=count("n_groups"), taps=count("conv_kernel"))


def _make_mamba2(
    keys: RecurrentKeys,
    layers: tuple[int, ...],
    count: Count,
    where: str,
    sizes: tuple[int, int, int],
    *,
    groups: int,
    taps: int,
) -> RecurrentLayers:
    """Gate, inputs, B, C and steps are one matrix; ``sizes`` are heads, key_dim and value_dim."""
    heads, key_dim, value_dim = sizes
    width, inner = count("hidden_size"), heads * value_dim
    _require_groups(heads, groups, where)
    channels = inner + 2 * groups * key_dim
    matrices = (("in_proj", width, inner + channels + heads), ("out_proj", inner, width))
    others = channels * (taps + 1) + 3 * heads + inner
    return RecurrentLayers(keys.kind, keys.layout, layers, matrices, others, channels, taps, *sizes)


def _read_lightning(
    config: Mapping[str, Any], keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str
) -> RecurrentLayers:
    """MiniMax: heads as in attention, with keys of their own, a norm of all heads and a gate; no convolution."""
    width, heads = count("hidden_size"), count("num_attention_heads")
    if config.get("head_dim") is None:
        _require_groups(width, heads, where)
    head_dim = width // heads if config.get("head_dim") is None else count("head_dim")
    inner = heads * head_dim
    return RecurrentLayers(
        keys.kind,
        keys.layout,
        layers,
        (("qkv_proj", width, 3 * inner), ("output_gate", width, inner), ("out_proj", inner, width)),
        other_parameters=inner,
        channels=0,
        taps=1,
        heads=heads,
        key_dim=head_dim,
        value_dim=head_dim,
    )


def _require_groups(heads: int, key_heads: int, where: str) -> None:
    if heads % key_heads:
        raise UserError(
            "the heads of the recurrent layers do not fit each other",
            where=where,
            why=f"{format_count(heads, 'value head')} cannot share {format_count(key_heads, 'key head')} evenly",
            fix="correct config.json",
        )


_READERS: Mapping[str, Callable[[RecurrentKeys, tuple[int, ...], Count, str], RecurrentLayers]] = {
    "qwen3_next": _read_gated_delta,
    "qwen3_5": _read_gated_delta,
    "olmo_hybrid": _read_olmo_delta,
    "kda": _read_kda,
    "lfm2": _read_convolution,
    "mamba2": _read_mamba2,
    "nemotron_h": _read_mamba2_heads,
}
