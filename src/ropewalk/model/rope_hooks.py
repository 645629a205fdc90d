"""Positions that a class of transformers does not support itself, given to each attention layer by torch hooks.

A hook passes three things, each only where it is needed: cosine and sine (other methods per layer, none, or those on
the way from the base's), a window, and a temperature for queries. Dynamic NTK and LongRoPE need a hook although their
classes support them. transformers takes their length from the largest position of the batch. So a packed sequence, and
each rank of a long one, would use a wrong length. With the hook, every token uses the length of its own document.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from ropewalk.model.architectures import attention_of, blocks_of, family_of
from ropewalk.model.compiled import stay_outside
from ropewalk.model.pass_arguments import hand_on_arguments
from ropewalk.model.read_rope import LiveLayer, class_frequencies, read_native
from ropewalk.partition import AnyPartition
from ropewalk.rope.interpolate import Between
from ropewalk.rope.layers import LayerPosition
from ropewalk.rope.scaling import Nope
from ropewalk.shape.family import CosSin

RTOL = 2e-5
"""Relative tolerance: transformers computes in float32; its llama3 is up to 1e-5 from float64 in a narrow blend."""

ClassFrequencies = Callable[[int, torch.device], Float[Tensor, "half"]]
"""A class of transformers' own function from the length of a document to its frequencies."""

_Given = Mapping[str, Any]
"""Keyword arguments of an attention layer's forward."""


class Angles:
    """Cosines, sines and temperatures of the current forward: each is computed once and shared by equal layers.

    ``head_dim`` counts the dimensions that RoPE turns. ``layout`` is how the class lays out cosines and sines: each
    pair's value at i and at i + half of them (``halves``), at 2 i and 2 i + 1 (``doubled``), or once (``single``), or
    once as complex numbers of cosine and sine (``complex``).

    A forward is identified by its positions and its partition, as objects. So a block that is recomputed in the
    backward finds the same values. ``share`` is the progress of the interpolation.
    """

    def __init__(self, head_dim: int, layout: CosSin = "halves") -> None:
        self.head_dim, self.layout = head_dim, layout
        self.of_class: dict[LayerPosition, ClassFrequencies] = {}
        self.share = 1.0
        self._of: tuple[Any, ...] = ()
        self._made: dict[Any, Any] = {}

    def turn(self, way: Between, given: _Given) -> Any:
        """Cosine and sine for ``way`` as the class passes them; angles in float32, the result in its own type."""
        dtype = split_angles(given["position_embeddings"])[0].dtype

        def make() -> Any:
            # [rows, tokens, 1] x [rows or 1, tokens or 1, half] -> [rows, tokens, half]
            angles = given["position_ids"][..., None].float() * self._frequencies(way, given)
            both = lay_out_angles(angles, self.layout)
            cosine, sine = (each * way.attention_factor for each in (both.cos(), both.sin()))
            return join_angles(cosine.to(dtype), sine.to(dtype), self.layout)

        return self._once((way, dtype), given, make)

    def sharpen(self, way: Between, given: _Given) -> Float[Tensor, "rows tokens"]:
        """The factor of queries: a linear mix of the former and the latter temperature."""

        def make() -> Float[Tensor, "rows tokens"]:
            before, after = (_temperature(layer, given["position_ids"]) for layer in (way.former, way.latter))
            return before + way.share * (after - before)

        made: Tensor = self._once(("temperature", way), given, make)
        return made

    def _frequencies(self, way: Between, given: _Given) -> Float[Tensor, "*rows_tokens half"]:
        positions = given["position_ids"]
        lengths = np.ones((1, 1), np.int64)  # any length: all have the same frequencies
        if way.depends_on_length:
            lengths = self._once("lengths", given, lambda: _document_tokens(given))
        distinct, which = np.unique(lengths, return_inverse=True)
        # lengths x [half] -> [lengths, half], then by the tokens' lengths -> [rows or 1, tokens or 1, half]
        table = torch.stack([self._frequencies_at(way, int(tokens), positions.device) for tokens in distinct])
        return table[torch.from_numpy(which.reshape(lengths.shape)).to(positions.device)]

    def _frequencies_at(self, way: Between, tokens: int, device: torch.device) -> Float[Tensor, "half"]:
        """Frequencies in float32, by the class's own function if it has one: at a far position its last bit matters."""
        if way.share == 1 and way.latter in self.of_class:
            return self.of_class[way.latter](tokens, device)
        return torch.from_numpy(way.inv_freq_at(tokens, self.head_dim).astype(np.float32)).to(device)

    def _once(self, key: Any, given: _Given, make: Callable[[], Any]) -> Any:
        of = given["position_ids"], given.get("partition")
        if len(self._of) != len(of) or any(mine is not theirs for mine, theirs in zip(self._of, of, strict=True)):
            self._of, self._made = of, {}
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def layout_of(model: Any) -> CosSin:
    """The layout in which a model's class passes cosines and sines to its blocks."""
    family = family_of(model)
    return family.cos_sin if family else "halves"


def lay_out_angles(angles: Float[Tensor, "*places half"], layout: CosSin) -> Float[Tensor, "*places turned"]:
    """One angle per pair in the layout of a class."""
    if layout == "halves":
        return torch.cat([angles, angles], dim=-1)  # twice [places, half] -> [places, 2 half]
    # complex has each pair once, as single has; Angles.turn puts cosine and sine into one tensor
    return angles.repeat_interleave(2, dim=-1) if layout == "doubled" else angles


def read_pairs(values: Float[Tensor, "turned"], layout: CosSin) -> Float[Tensor, "half"]:
    """One value per pair, from values in the layout of a class."""
    pairs = {"halves": slice(0, len(values) // 2), "doubled": slice(0, None, 2)}
    return values[pairs.get(layout, slice(None))]


def join_angles(cosine: Float[Tensor, "*places turned"], sine: Float[Tensor, "*places turned"], layout: CosSin) -> Any:
    """What a class passes to its blocks: cosines and sines, or one tensor of complex numbers."""
    return torch.complex(cosine.float(), sine.float()) if layout == "complex" else (cosine, sine)


def split_angles(passed: Any) -> tuple[Float[Tensor, "*places turned"], Float[Tensor, "*places turned"]]:
    """The inverse of ``join_angles``."""
    return (passed.real, passed.imag) if isinstance(passed, Tensor) else passed


@dataclass(frozen=True, slots=True)
class Direction:
    """A hook before one attention layer's forward; the flags select the values that it passes to the layer."""

    former: LayerPosition
    position: LayerPosition
    angles: Angles
    turns: bool
    interpolates: bool
    windows: bool

    @stay_outside
    def __call__(self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The same call, with the values that the layer does not compute itself."""
        told: dict[str, Any] = {}
        share = self.angles.share if self.interpolates else 1.0
        way = Between(self.former if share < 1 else self.position, self.position, share)
        if self.turns or share < 1:
            told["position_embeddings"] = self.angles.turn(way, given)
        if self.windows:
            told["window_tokens"] = self.position.window_tokens
        if way.former.log_n_tokens or way.latter.log_n_tokens:
            told["query_temperature"] = self.angles.sharpen(way, given)
        return args, given | told


_directed: WeakKeyDictionary[nn.Module, tuple[Direction | None, ...]] = WeakKeyDictionary()


def direct_positions(
    model: Any,
    positions: Sequence[LayerPosition],
    *,
    head_dim: int | Sequence[int],
    native: bool,
    former: Sequence[LayerPosition] | None = None,
) -> None:
    """Make ``model``, as built from its config, run ``positions``, one per layer, wherever its class does not.

    ``native``: its config describes all of ``positions``, so only positions that depend on a document's length are
    added. With ``former``, its positions before, its frequencies can be interpolated. ``head_dim`` counts the
    dimensions that RoPE turns; one number for each layer where layers differ.
    """
    hand_on_arguments(model)  # the hooks below read the positions
    dims = [head_dim] * len(positions) if isinstance(head_dim, int) else head_dim
    angles_of = {dim: Angles(dim, layout_of(model)) for dim in dims}
    directions: list[Direction | None] = []
    olds = positions if former is None else former
    for index, (live, position, old, dim) in enumerate(zip(read_native(model), positions, olds, dims, strict=True)):
        attention: Any = attention_of(model, blocks_of(model)[index])
        direction = Direction(
            old,
            position,
            angles_of[dim],
            turns=position.rope.depends_on_length or not (native or turns_alike(live, position, dim)),
            interpolates=old != position,
            windows=not native and live.window_tokens != position.window_tokens,
        )
        if native and position.rope.depends_on_length:
            angles_of[dim].of_class[position] = class_frequencies(model, index)
        assert not direction.windows or live.window_tokens is None, "a class's own window cannot be widened"
        if direction.interpolates and isinstance(position.rope, Nope) and hasattr(attention, "use_rope"):
            attention.use_rope = True  # it turns during the interpolation, then by angle 0
            direction = replace(direction, turns=True)
        needed = direction.turns or direction.interpolates or direction.windows or position.log_n_tokens
        directions.append(direction if needed else None)
        if needed:
            attention.register_forward_pre_hook(direction, with_kwargs=True)
    _directed[model] = tuple(directions)


def is_directed(model: nn.Module) -> bool:
    """Whether ``direct_positions`` has been called for it; ``load_model`` does so."""
    return model in _directed


def forget_direction(model: nn.Module) -> None:
    """Forget that ``direct_positions`` has been called for ``model``; the caller has removed its hooks."""
    _directed.pop(model, None)


def interpolate_positions(model: nn.Module, share: float) -> None:
    """Put ``model``, or the one inside it, at ``share`` of the way from its former positions (0) to its own (1)."""
    assert 0 <= share <= 1
    for module in model.modules():
        for direction in _directed.get(module, ()):
            if direction is not None:
                direction.angles.share = share


def read_live(model: Any, *, tokens: int) -> tuple[LiveLayer, ...]:
    """The live values of every layer in a document of ``tokens``: those of its class, replaced by those of its hook.

    A directed layer's hook is called as its forward would call it, and the angles are read from the result.
    """
    found = list(read_native(model))
    for index, direction in enumerate(_directed.get(model, ())):
        if direction is None:
            continue
        plain = lay_out_angles(torch.ones(1, 2, direction.angles.head_dim // 2), direction.angles.layout)
        passed = join_angles(plain, plain, direction.angles.layout)
        given = {"position_ids": torch.tensor([[1, tokens - 1]]), "position_embeddings": passed}
        told = direction(model, (), given)[1]
        native = found[index]
        if told["position_embeddings"] is not given["position_embeddings"]:
            layout = direction.angles.layout
            turned = split_angles(told["position_embeddings"])
            cosine, sine = (read_pairs(each[0, 0], layout).double().numpy() for each in turned)
            native = replace(
                native, inv_freq=np.arctan2(sine, cosine), attention_factor=float(np.hypot(cosine, sine).mean())
            )
        found[index] = replace(
            native,
            window_tokens=told.get("window_tokens", native.window_tokens),
            temperature=float(told["query_temperature"][0, 1]) if "query_temperature" in told else 1.0,
        )
    return tuple(found)


def turns_alike(live: LiveLayer, position: LayerPosition, head_dim: int) -> bool:
    """Whether a live layer turns short documents as ``position`` does."""
    wanted = position.inv_freq(head_dim)
    return bool(
        live.inv_freq.shape == wanted.shape
        and np.allclose(live.inv_freq, wanted, rtol=RTOL, atol=0)
        and math.isclose(live.attention_factor, position.attention_factor, rel_tol=RTOL)
    )


def temperature_at(position: LayerPosition, place: int) -> float:
    """The factor that ``position`` gives the query at ``place`` of a document; in float64."""
    original = position.log_n_tokens
    return 1.0 if original is None or place < original else math.log(place + 1) / math.log(original)


def _temperature(position: LayerPosition, places: Int[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens"]:
    original = position.log_n_tokens
    if original is None:
        return torch.ones_like(places, dtype=torch.float32)
    return ((places + 1).float().log() / math.log(original)).where(places >= original, 1.0)


def _document_tokens(given: _Given) -> Int64[np.ndarray, "rows #tokens"]:
    """Length of each token's document [rows, tokens], or [rows, 1]; without a partition a sequence is one document."""
    partition: AnyPartition | None = given.get("partition")
    if partition is None:
        longest: np.ndarray = given["position_ids"].amax(dim=-1, keepdim=True).cpu().numpy() + 1
        return longest
    group = given.get("context_group")
    return partition.document_tokens(0 if group is None else dist.get_rank(group))[None]
