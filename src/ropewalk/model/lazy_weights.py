"""The weights of a model as a mapping that reads or computes one tensor when it is asked for.

Such a mapping holds no tensor. So a model is exported with as much memory as its largest tensor needs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ropewalk.model.weights import read_headers, read_tensor
from ropewalk.parallel.verify_folder import require_intact
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.read import read_shape


@dataclass(frozen=True)
class LazyWeights(Mapping[str, Tensor]):
    """Weights by transformers' names. ``shapes`` has all of them; ``read`` returns a new tensor at each call."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Shaped[Tensor, "..."]]

    def __getitem__(self, name: str) -> Shaped[Tensor, "..."]:
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes


def shapes_of(weights: Mapping[str, Shaped[Tensor, "..."]]) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each weight. No weight of a lazy mapping is read."""
    if isinstance(weights, LazyWeights):
        return weights.shapes
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def read_weights(folder: Path) -> LazyWeights:
    """All stored tensors of a model folder that matches its manifest; names and shapes are not checked."""
    require_intact(folder)
    stored = read_headers(folder)
    return LazyWeights({name: tensor.shape for name, tensor in stored.items()}, partial(read_tensor, stored))


def keep_untrained(trained: Mapping[str, Float[Tensor, "..."]], folder: Path) -> LazyWeights:
    """``trained``, and the tensors of ``folder`` that its class never trains (a router's balance, constants)."""
    stored, ends = read_weights(folder), SUPPORTED[read_shape(folder).architecture].untrained
    left = {name: shape for name, shape in stored.shapes.items() if name.endswith(ends) and name not in trained}
    shapes = {**shapes_of(trained), **left}
    return LazyWeights(shapes, lambda name: stored[name] if name in left else trained[name])


def merge_weights(
    trained: Mapping[str, Float[Tensor, "..."]], base: Mapping[str, Float[Tensor, "..."]], *, share: float
) -> LazyWeights:
    """``share`` x ``trained`` + the rest x ``base``, weight by weight; a weight that the base lacks stays as trained.

    Both ends of one short training lie in one basin of the loss. So the line between them is a trade between new and
    lost abilities (WiSE-FT, 2109.01903; model soups, 2203.05482).
    """

    def read(name: str) -> Shaped[Tensor, "..."]:
        tensor = trained[name]
        return tensor if name not in base else torch.lerp(base[name].to(tensor.dtype), tensor, share)

    return LazyWeights(shapes_of(trained), read)
