"""Which layers of a model have equal sizes: sums over some of its layers count a group at once.

Layers differ in their mixers (attention, a recurrence, or both), in their heads, in whether they use the keys of
others, and in their MLP (none, dense, wider, or a mixture of experts). Windows and positions are not sizes.
"""

from typing import Protocol, runtime_checkable

from ropewalk.shape.experts import Experts
from ropewalk.shape.mixers import Mixers


@runtime_checkable
class Layered(Protocol):
    """What is asked of a ``ModelShape``."""

    @property
    def layers(self) -> int: ...
    @property
    def mixers(self) -> tuple[Mixers, ...]: ...
    @property
    def experts(self) -> Experts | None: ...
    def heads_of(self, layer: int) -> tuple[int, int]: ...
    def shares_keys(self, layer: int) -> bool: ...
    def mlp_factor(self, layer: int) -> int: ...
    def has_mlp(self, layer: int) -> bool: ...


def has_mixture(shape: Layered, layer: int) -> bool:
    """Whether a layer has a mixture of experts."""
    return shape.experts is not None and layer in shape.experts.layers


def group_layers(shape: Layered) -> tuple[tuple[int, ...], ...]:
    """All layers in groups of equal sizes, each from first to last; ``ModelShape.alike`` keeps the result."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for layer in range(shape.layers):
        own = shape.mixers[layer], shape.has_mlp(layer), has_mixture(shape, layer)
        sizes = (*shape.heads_of(layer), shape.shares_keys(layer), shape.mlp_factor(layer))
        groups.setdefault((own, sizes), []).append(layer)
    return tuple(map(tuple, groups.values()))
