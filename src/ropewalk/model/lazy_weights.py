"""The weights of a model as a mapping that reads or computes one tensor when it is asked for.

Such a mapping holds no tensor. So a model is exported with as much memory as its largest tensor needs; with experts, as
those of one layer need.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ropewalk.model.expert_files import ExpertPlace, find_place, join_experts
from ropewalk.model.weights import read_headers, read_tensor
from ropewalk.parallel.verify_folder import require_intact


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
    """All weights in a model folder that matches its manifest, by the class's names; they are not checked."""
    require_intact(folder)
    stored = join_experts(read_headers(folder))
    return LazyWeights({name: tensor.shape for name, tensor in stored.items()}, partial(read_tensor, stored))


def complete_weights(
    trained: Mapping[str, Float[Tensor, "..."]], base: Mapping[str, Float[Tensor, "..."]], *, frozen: Iterable[str]
) -> LazyWeights:
    """``trained`` with the weights called ``frozen``, which it lacks, from ``base``, in float32."""
    held = set(frozen)
    shapes = {**shapes_of(trained), **{name: tuple(shapes_of(base)[name]) for name in sorted(held)}}
    return LazyWeights(shapes, lambda name: base[name].float() if name in held else trained[name])


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


def split_experts(weights: Mapping[str, Shaped[Tensor, "..."]], stored: Mapping[str, tuple[int, ...]]) -> LazyWeights:
    """``weights``, by the class's names, under the names of a model's files, as far as they are among them.

    ``stored`` has the shapes in the files by the names there. A weight without a name there keeps its own. The experts
    of one layer are held until those of the next are read.
    """
    shapes = shapes_of(weights)
    places: dict[str, ExpertPlace] = {}
    for name in stored:
        place = None if name in shapes else find_place(name)
        if place is not None and place.name in shapes:
            places[name] = place
    held = lru_cache(maxsize=2)(weights.__getitem__)  # names in their order alternate between a layer's two tensors
    cut = {name: place.cut(shapes[place.name], stored) for name, place in places.items()}

    def read(name: str) -> Shaped[Tensor, "..."]:
        if name not in places:
            return weights[name]
        place = places[name]
        # [experts, rows, width] -> [rows, width], or the whole tensor
        whole = held(place.name) if place.expert is None else held(place.name)[place.expert]
        if len(place.siblings) == 1:
            return whole
        # [rows, ...] -> parts x [part_rows, ...]
        parts: tuple[Tensor, ...] = whole.split([cut[part][0] for part in place.siblings])
        return parts[place.part]

    taken = {place.name for place in places.values()}
    kept = {name: shape for name, shape in shapes.items() if name not in taken}
    return LazyWeights(kept | cut, read)
