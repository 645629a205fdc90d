"""What mixes the tokens in a layer: attention, a recurrence, or both side by side, whose outputs are added."""

from collections.abc import Sequence
from typing import NamedTuple

from ropewalk.rope.layers import LayerPosition
from ropewalk.shape.recurrent import RecurrentLayers


class Mixers(NamedTuple):
    """What one layer has."""

    attends: bool
    recurs: bool


def find_mixers(positions: Sequence[LayerPosition], recurrent: RecurrentLayers | None) -> tuple[Mixers, ...]:
    """Those of each layer, first to last; ``recurrent`` lists the layers with a recurrence."""
    recurring = frozenset(recurrent.layers if recurrent else ())
    return tuple(Mixers(each.mixer is None, layer in recurring) for layer, each in enumerate(positions))
