"""Recurrences in place of attention or beside it: which layers of a config.json have one, and what they cost.

A hybrid has softmax attention in some layers and a recurrence, or a short causal convolution, in the others; or it has
both in each layer. A recurrence has no positions, so a longer context changes nothing in it. All of a model are alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.shape.family import MLP_ALONE, Family
from ropewalk.shape.recurrences import RECURRENCES
from ropewalk.shape.rope_keys import FULL


@dataclass(frozen=True, slots=True)
class RecurrentLayers:
    """The sizes of a model's recurrences, and the indices of the layers that have one.

    ``matrices`` are names, input and output widths. ``channels`` pass a causal convolution of ``taps`` tokens, 0
    without one. The state of each of ``heads`` is [key_dim, value_dim]; ``convolution`` has none. ``layout`` is that of
    RecurrentKeys. ``normed``: the output passes a norm.
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
    normed: bool = True

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
    """The layers with a recurrence; none for a family without. ``read_layers`` refuses a list that is not usable.

    Raises UserError for a period that is no number.
    """
    keys = family.recurrent
    if keys is None:
        return ()
    if keys.beside:
        return tuple(range(layers))
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
