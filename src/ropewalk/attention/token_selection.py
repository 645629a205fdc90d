"""Which tokens of a tensor a kernel call reads, and how: in place where it can, else copied by index.

All tensors of attention have tokens in the first dimension. A call reads ranges of them: the queries or the keys of
its tiles.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from ropewalk.partition.token_ranges import TokenRanges


@dataclass(frozen=True, slots=True)
class TokenSelection:
    """Ranges of a tensor's tokens: ``lengths[i]`` tokens, at least one, from ``starts[i]`` on.

    ``index`` lists the tokens to copy, range after range; None where they are read in place.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    index: Int64[Tensor, "taken"] | None

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
        # [taken, ...] -> a part [length, ...] for each range
        for start, length, part in zip(self.starts, self.lengths, parts.split(self.lengths), strict=True):
            total[start : start + length] += part


def select_ranges(ranges: TokenRanges, device: torch.device) -> TokenSelection:
    """A selection for ``take``."""
    index = index_tokens(ranges.expand(), device)
    starts, lengths = tuple(ranges.start.tolist()), tuple(ranges.length.tolist())
    return TokenSelection(starts, lengths, None if isinstance(index, slice) else index)


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
    return slice(int(tokens[0]), int(tokens[-1]) + 1) if adjoin else torch.from_numpy(tokens).to(device)
