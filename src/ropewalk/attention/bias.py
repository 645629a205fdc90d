"""Score biases that depend on distance: ALiBi's fixed lines and FIRE's learnt curve.

Both are FlexAttention ``score_mod`` functions, so no matrix of all pairs is made. FIRE's small network has one input
between 0 and 1 and is piecewise linear. It is read from a table of 1,024 straight lines instead of being run for
every pair; the table is exact except in the few cells where one of the network's 32 bends lies.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from ropewalk.rope.layers import FIRE_UNITS

Score = Float[Tensor, "..."]
Index = Int[Tensor, "..."]
ScoreMod = Callable[[Score, Index, Index, Index, Index], Score]
"""``(score, batch, head, query index, key index) -> score``, as FlexAttention calls it: of one pair, or of many at
once."""

_CELLS = 1024
_START_RATE, _START_THRESHOLD_TOKENS = 0.1, 512.0  # the paper's own first values
_SMALL = 1e-6


def alibi_slopes(heads: int) -> Float64[Tensor, "heads"]:
    """How much each head takes off a score for each token of distance (Press et al., 2108.12409).

    2^(-8/n), 2^(-16/n), ... for n heads where n is a power of two; other counts take the slopes of the power below,
    and then every second one of twice as many, as the authors' code does.
    """
    power = 2 ** int(math.log2(heads))
    own = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2.0 ** (-4 * (head + 1) / power) for head in range(0, 2 * power, 2)]
    return torch.tensor((own + between)[:heads], dtype=torch.float64)


class Alibi(nn.Module):
    """A line per head: nothing to learn, nothing to save."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self._heads = heads

    def score_mod(self, positions: Int[Tensor, "tokens"], dtype: torch.dtype) -> ScoreMod:
        """For queries and keys that stand at ``positions`` of their documents; ``dtype`` is the scores'."""
        slopes = alibi_slopes(self._heads).to(positions.device, dtype)

        def add(score: Score, batch: Index, head: Index, query: Index, key: Index) -> Score:
            return score - slopes[head] * (positions[query] - positions[key])

        return add


class Fire(nn.Module):
    """A curve per head over log-distance, squeezed into [0, 1] by the query's position (Li et al., 2310.04418, eq. 5).

    ``b(i, j) = f(psi(i - j) / psi(max(L, i)))`` with ``psi(x) = log(c x + 1)`` and f of 1 -> 32 -> heads units. Where
    training begins f is 0, so a trained model starts as it was, and f's bends lie evenly, so no random number is drawn.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        # One entry each: sharding knows no tensor without dimensions.
        self.rate = nn.Parameter(torch.tensor([_START_RATE]))
        self.threshold = nn.Parameter(torch.ones(1))
        """Times 512 tokens: nearer queries are squeezed as if they stood there."""
        self.hidden = nn.Linear(1, FIRE_UNITS)
        self.curves = nn.Linear(
            FIRE_UNITS, heads, bias=False
        )  # what is added to all keys alike, softmax takes off again
        with torch.no_grad():
            self.hidden.weight.fill_(1.0)
            self.hidden.bias.copy_(-torch.arange(FIRE_UNITS) / FIRE_UNITS)
            self.curves.weight.zero_()

    def score_mod(self, positions: Int[Tensor, "tokens"], dtype: torch.dtype) -> ScoreMod:
        """For queries and keys that stand at ``positions`` of their documents; ``dtype`` is the scores'.

        Gradients reach every parameter through tensors of one entry per token or cell, each read once per pair:
        FlexAttention adds a pair's gradient to the entry that it read, and allows no second reading.
        """
        rate, threshold = self.rate.to(dtype).abs(), self.threshold.to(dtype).abs() * _START_THRESHOLD_TOKENS
        rates = rate.repeat(len(positions))
        spans = torch.log(rate * torch.maximum(positions.to(dtype), threshold) + 1) + _SMALL
        starts, rises = self._tabulate(dtype)

        def add(score: Score, batch: Index, head: Index, query: Index, key: Index) -> Score:
            distance = (positions[query] - positions[key]).clamp(min=0)  # below 0 where nothing is seen
            place = torch.log(rates[query] * distance + 1) / spans[query] * _CELLS
            cell = place.to(torch.int32).clamp(max=_CELLS - 1)
            return score + starts[head, cell] + rises[head, cell] * (place - cell)

        return add

    def _tabulate(self, dtype: torch.dtype) -> tuple[Float[Tensor, "heads cells"], Float[Tensor, "heads cells"]]:
        """f at the start of each cell, and how much it rises within."""
        grid = torch.linspace(0, 1, _CELLS + 1, dtype=dtype, device=self.rate.device)[:, None]
        hidden = torch.relu(grid * self.hidden.weight.to(dtype).T + self.hidden.bias.to(dtype))
        curves = self.curves.weight.to(dtype) @ hidden.T
        return curves[:, :-1].contiguous(), curves.diff(dim=1)


BIASES: dict[Literal["alibi", "fire"], Callable[[int], Alibi | Fire]] = {"alibi": Alibi, "fire": Fire}
"""By a layer's ``bias``: what makes it for a number of heads."""
