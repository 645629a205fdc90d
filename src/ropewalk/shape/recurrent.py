"""Recurrent layers in place of attention: which layers of a config.json are such, and the sizes of theirs.

A hybrid has softmax attention in some layers and a recurrence, or a short causal convolution, in the others. Those have
no positions, so a longer context changes nothing in them. All such layers of a model are alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.shape.family import MLP_ALONE, Family, RecurrentKeys
from ropewalk.shape.recurrences import RECURRENCES
from ropewalk.shape.rope_keys import FULL

Count = Callable[..., int]


@dataclass(frozen=True, slots=True)
class RecurrentLayers:
    """The sizes of a model's recurrent layers, and their indices.

    ``matrices`` are names, input and output widths. ``channels`` pass a causal convolution of ``taps`` tokens, 0
    without one. The state of each of ``heads`` is [key_dim, value_dim]; ``convolution`` has none. ``layout`` is that of
    RecurrentKeys.
    """

    kind: str
    layout: str
    layers: tuple[int, ...]
    matrices: tuple[tuple[str, int, int], ...]
    other_parameters: int
    channels: int
    taps: int
    heads: int = 0
    key_dim: int = 0
    value_dim: int = 0

    @property
    def key_heads(self) -> int:
        """Heads that the matrices make queries and keys for."""
        if not self.channels:
            return self.heads
        return (self.channels - self.heads * self.value_dim) // (2 * self.key_dim)

    @property
    def matrix_parameters(self) -> int:
        """Parameters of the matrices of one layer."""
        return sum(into * out for _, into, out in self.matrices)

    @property
    def parameters(self) -> int:
        """Parameters of one layer without the norms of its block, exactly."""
        return self.matrix_parameters + self.other_parameters

    @property
    def token_flops(self) -> float:
        """Forward FLOPs of one token in one layer: matrices, the convolution, and the recurrence."""
        return 2.0 * (self.matrix_parameters + self.channels * self.taps) + self.scan_flops

    @property
    def scan_flops(self) -> float:
        """Forward FLOPs of one token in the recurrence of one layer.

        It runs in chunks of c tokens. A head multiplies queries with the keys of the chunk (2 c K), the
        result with their values (2 c V), queries with the state and keys with values (4 K V); the delta rule also keys
        with keys (2 c K) and the keys of the chunk with the state (2 K V). Triangular systems are left out.
        """
        if not self.heads:
            return 0.0
        kind = RECURRENCES[self.kind]
        keys, both = 2 * kind.chunk_tokens * self.key_dim, 2 * self.key_dim * self.value_dim
        head = keys + 2 * kind.chunk_tokens * self.value_dim + 2 * both
        return float(self.heads) * (head + (keys + both if kind.erases else 0))


def list_recurrent(config: Mapping[str, Any], family: Family, *, layers: int, where: str) -> tuple[int, ...]:
    """The recurrent layers of a model; none for a family without. ``read_layers`` refuses a list that is not usable.

    Raises UserError for a period that is no number.
    """
    keys = family.recurrent
    if keys is None:
        return ()
    kinds = config.get("layer_types") if keys.word else None
    if isinstance(kinds, list):
        return tuple(layer for layer, kind in enumerate(kinds) if kind in keys.words)
    if keys.attention_key and config.get(keys.attention_key) is not None:
        attending = config[keys.attention_key]
        if not isinstance(attending, list) or not all(type(each) is int for each in attending):
            raise UserError(
                f"{keys.attention_key} is not usable",
                where=f"{where}: {keys.attention_key}",
                why=f"it is {attending!r:.60}, and must be a list of numbers of layers",
                fix="correct it",
            )
        return tuple(layer for layer in range(layers) if layer not in attending)
    if keys.attention_key and not keys.word:
        raise UserError(
            "the kinds of the layers are ambiguous",
            where=f"{where}: {keys.attention_key}",
            why="it is missing, and the class then has no attention",
            fix="download the file again",
        )
    every = keys.every if config.get(keys.every_key) is None else config[keys.every_key]
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UserError(
            f"{keys.every_key} is not usable",
            where=f"{where}: {keys.every_key}",
            why=f"it is {every!r:.60}, and must be a whole number from 1 on",
            fix="correct it",
        )
    found = tuple(layer for layer in range(layers) if (layer + (not keys.attends_first)) % every)
    return found[:-1] if keys.ends_attending and len(found) == layers else found


def hide_recurrent(config: Mapping[str, Any], family: Family) -> Mapping[str, Any]:
    """``config`` as if layers that are recurrent, or an MLP alone, had attention, for readers of the other layers."""
    keys, kinds = family.recurrent, config.get("layer_types")
    if keys is None or not isinstance(kinds, list):
        return config
    hidden = (*keys.words, *MLP_ALONE) if family.single else keys.words
    return {**config, "layer_types": [FULL if kind in hidden else kind for kind in kinds]}


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
    made = _READERS[keys.layout](keys, found, count, where)
    own = config.get("mamba_d_head", "auto")
    if keys.layout == "mamba2" and own not in ("auto", None, made.value_dim):
        raise UserError(
            "the heads of the recurrent layers do not fit each other",
            where=f"{where}: mamba_d_head",
            why=f"it is {own!r:.60}, and mamba_expand x hidden_size / mamba_n_heads is {made.value_dim}",
            fix="correct config.json",
        )
    return made


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
    """Mamba-2 with the keys of Bamba, whose inner width is a multiple of the model's."""
    taps, heads = count("mamba_d_conv"), count("mamba_n_heads")
    inner = count("mamba_expand") * count("hidden_size")
    _require_groups(inner, heads, where)
    sizes = heads, count("mamba_d_state"), inner // heads
    return _make_mamba2(keys, layers, count, where, *sizes, groups=count("mamba_n_groups"), taps=taps)


def _read_mamba2_heads(keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str) -> RecurrentLayers:
    """Mamba-2 with the keys of Nemotron-H, whose inner width follows from the heads."""
    sizes = count("mamba_num_heads"), count("ssm_state_size"), count("mamba_head_dim")
    return _make_mamba2(keys, layers, count, where, *sizes, groups=count("n_groups"), taps=count("conv_kernel"))


def _make_mamba2(
    keys: RecurrentKeys, layers: tuple[int, ...], count: Count, where: str, *sizes: int, groups: int, taps: int
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
            why=f"{heads} heads of values cannot share {key_heads} heads of keys evenly",
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
