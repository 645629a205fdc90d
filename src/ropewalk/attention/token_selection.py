"""Which tokens of a tensor a kernel call reads, and how: in place where it can, else copied by index.

All tensors of attention have tokens in the first dimension. A call reads ranges of them: the queries or the keys of
its tiles.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.core.ranges import expand_ranges
from ropewalk.partition.token_ranges import TokenRanges


@dataclass(frozen=True, slots=True)
class TokenSelection:
    """Ranges of a tensor's tokens: ``lengths[i]`` tokens, at least one, from ``starts[i]`` on.

    ``index`` lists the tokens to copy, range after range; None where they are read in place. ``layers`` are sets of
    ranges that share no token, so that each is added in one launch.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    index: Int64[Tensor, "taken"] | None
    layers: "tuple[DisjointRanges, ...]" = ()

    def take(self, tensor: Shaped[Tensor, "tokens ..."]) -> Shaped[Tensor, "taken ..."]:
        """The tokens, range after range; a view where the ranges adjoin."""
        if self.index is not None:
            # [tokens, ...] -> [taken, ...]
            return tensor.index_select(0, self.index)
        start, stop = self.starts[0], self.starts[-1] + self.lengths[-1]
        assert stop - start == sum(self.lengths), "only adjoining ranges are one slice"
        return tensor[start:stop]

    def take_stacked(self, tensor: Shaped[Tensor, "tokens ..."]) -> Shaped[Tensor, "tiles length ..."]:
        """The tokens of equally long ranges, range by range; a view where the ranges are regularly spaced."""
        tiles, length = len(self.starts), self.lengths[0]
        if self.index is not None:
            # [tokens, ...] -> [tiles * length, ...] -> [tiles, length, ...]
            taken: Tensor = tensor.index_select(0, self.index).unflatten(0, (tiles, length))
            return taken
        step, stride = self.starts[1] - self.starts[0] if tiles > 1 else length, tensor.stride()
        return tensor.as_strided(
            (tiles, length, *tensor.shape[1:]),
            (step * stride[0], *stride),
            tensor.storage_offset() + self.starts[0] * stride[0],
        )

    def add(self, total: Shaped[Tensor, "tokens ..."], parts: Shaped[Tensor, "taken ..."]) -> None:
        """Add ``parts``, as ``take`` gives them, to their tokens in ``total``, in order: ranges may overlap."""
        for layer in self.layers:
            layer.add(total, parts)
        if self.layers:
            return
        # [taken, ...] -> a part [length, ...] for each range
        for start, length, part in zip(self.starts, self.lengths, parts.split(self.lengths), strict=True):
            total[start : start + length] += part


@dataclass(frozen=True, slots=True)
class DisjointRanges:
    """Ranges of tokens without a common one: ``tokens`` to add to, and the ``taken`` parts that are theirs (None: all).

    No sum depends on an order, so it is the same in every run.
    """

    tokens: Int64[Tensor, "some"] | slice
    taken: Int64[Tensor, "some"] | None

    def add(self, total: Shaped[Tensor, "tokens ..."], parts: Shaped[Tensor, "taken ..."]) -> None:
        """Add these ranges' ``parts`` to ``total``."""
        # [taken, ...] -> [some, ...]
        chosen = parts if self.taken is None else parts.index_select(0, self.taken)
        if isinstance(self.tokens, slice):
            total[self.tokens] += chosen
        else:
            # [some, ...] into [tokens, ...]
            total.index_add_(0, self.tokens, chosen.to(total.dtype))


def select_ranges(ranges: TokenRanges, device: torch.device, *, adds: bool = False) -> TokenSelection:
    """A selection for ``take``; with ``adds`` also for ``add``, in as few launches as ranges overlap."""
    index = index_tokens(ranges.expand(), device)
    starts, lengths = tuple(ranges.start.tolist()), tuple(ranges.length.tolist())
    return TokenSelection(
        starts, lengths, None if isinstance(index, slice) else index, _part(ranges, device) if adds else ()
    )


def _part(ranges: TokenRanges, device: torch.device) -> tuple[DisjointRanges, ...]:
    """The ranges in as few disjoint sets as keep their order: a range is in a later set than those it overlaps.

    None, if it takes fewer launches to add one range after the other.
    """
    depth = np.zeros(len(ranges), dtype=np.int64)
    if not (ranges.start[1:] >= ranges.stop[:-1]).all():
        for number in range(1, len(ranges)):
            before = slice(number)
            shared = (ranges.start[before] < ranges.stop[number]) & (ranges.stop[before] > ranges.start[number])
            depth[number] = (depth[before][shared] + 1).max(initial=0)
    ends = np.cumsum(ranges.length)
    sets = []
    for each in range(int(depth.max(initial=-1)) + 1):
        chosen = depth == each
        tokens = index_tokens(expand_ranges(ranges.start[chosen], ranges.length[chosen]), device)
        taken = expand_ranges((ends - ranges.length)[chosen], ranges.length[chosen])
        sets.append(DisjointRanges(tokens, None if chosen.all() else copy_to_device(taken, device)))
    launches = sum(1 if each.taken is None and isinstance(each.tokens, slice) else 3 for each in sets)
    return tuple(sets) if launches < len(ranges) else ()


def select_stacked(start: Int64[np.ndarray, "tiles"], length: int, *, limit: int | None = None) -> TokenSelection:
    """A selection for ``take_stacked`` on a CPU: ``length`` tokens from each start on.

    Where ranges reach over ``limit``, the last token before it is read again.
    """
    ranges = TokenRanges.from_lengths(start, np.full_like(start, length))
    starts, lengths, steps = tuple(start.tolist()), (length,) * len(start), np.diff(start)
    if (steps == steps[:1]).all() and (limit is None or ranges.stop[-1] <= limit):
        return TokenSelection(starts, lengths, None)
    index = ranges.expand()
    return TokenSelection(starts, lengths, torch.from_numpy(index if limit is None else np.minimum(index, limit - 1)))


def index_tokens(tokens: Int64[np.ndarray, "taken"], device: torch.device) -> Int64[Tensor, "taken"] | slice:
    """What to index a tensor's first dimension with: a slice, if the tokens are one range in order."""
    adjoin = len(tokens) == tokens[-1] - tokens[0] + 1 and bool((np.diff(tokens) == 1).all())
    return slice(int(tokens[0]), int(tokens[-1]) + 1) if adjoin else copy_to_device(tokens, device)
