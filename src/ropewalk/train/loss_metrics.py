"""Sums and counts by source, position and document length, from which every averaged figure of training is made.

They are added up over tokens, micro-batches, ranks and steps, in float64, and divided once, when a panel is due. The
running sums lie in the checkpoint, so a resumed run writes the same figures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ropewalk.core.record import Row
from ropewalk.corpus.spec import Source
from ropewalk.train.batches import MicroBatch

_BUCKETS = 5
_NLL, _WEIGHT, _CORRECT, _TOKENS = range(4)


@dataclass(frozen=True)
class Tally:
    """What is told apart: the feed's sources; positions in the document, and documents' lengths, by doubling.

    Both go up to ``reach_tokens``; a document's length is that of the piece which its row holds. The table has a row
    for each source, bucket of positions, bucket of lengths; columns are weighted nll, weight, weight of correct labels,
    tokens.
    """

    sources: tuple[str, ...]
    reach_tokens: int
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What each source belongs to, such as ``role/domain`` and ``language/zh``: sums of its sources' sums."""

    @property
    def borders(self) -> list[int]:
        """Where buckets of positions begin and end: 0, 128, 256, 512, 1024, 2048 for a reach of 2048."""
        edges = {self.reach_tokens >> shift for shift in range(_BUCKETS)}
        return [0, *sorted(edge for edge in edges if edge)]

    @property
    def groups(self) -> list[str]:
        """``source/law``, ``position/0-128`` (0 to 127 tokens before it), ``length/128-256`` (129 to 256 tokens)."""
        buckets = [f"{low}-{high}" for low, high in pairwise(self.borders)]
        kinds = {"source": self.sources, "position": buckets, "length": buckets}
        return [f"{kind}/{name}" for kind, names in kinds.items() for name in names]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.groups), 4

    def count(
        self, micro: MicroBatch, nll: Float[Tensor, "local"], correct: Bool[Tensor, "local"]
    ) -> Float64[Tensor, "groups 4"]:
        """The table of one micro-batch, as a product with one-hot groups: exact, and in a fixed order on any device."""
        device, sources, buckets = nll.device, len(self.sources), len(self.borders) - 1
        weights = micro.weights.double()
        columns = torch.stack((weights * nll, weights, weights * correct, (micro.source >= 0).double()), dim=1)
        inner = torch.tensor(self.borders[1:-1], device=device)
        numbers = torch.arange(self.shape[0], device=device)[:, None]
        member = numbers == micro.source
        member |= numbers == torch.bucketize(micro.positions, inner, right=True) + sources
        member |= numbers == torch.bucketize(micro.lengths, inner) + sources + buckets
        return member.double() @ columns

    def loss(self, table: Float64[Tensor, "groups 4"]) -> tuple[float, float]:
        """(mean nll, accuracy) over all sources."""
        total = table[: len(self.sources)].sum(0)
        weight = max(float(total[_WEIGHT]), 1e-300)
        return float(total[_NLL]) / weight, float(total[_CORRECT]) / weight

    def tokens(self, table: Float64[Tensor, "groups 4"]) -> int:
        """Tokens counted, weighted or not, without padding."""
        return int(table[: len(self.sources), _TOKENS].sum())

    def panel(self, sums: Sequence[float], *, stage: int, step: int) -> Iterator[Row]:
        """The averages of a panel whose table, laid flat, is ``sums``; a group without a label gives no row."""
        table = torch.tensor(sums, dtype=torch.float64).reshape(self.shape)
        for name, (nll, weight, correct, tokens) in (
            *zip(self.groups, table.tolist(), strict=True),
            *self._kind_sums(table),
        ):
            if weight:
                yield Row(stage, step, f"loss/{name}", nll / weight, "nats per token")
                yield Row(stage, step, f"accuracy/{name}", correct / weight, "share")
            if tokens and name.startswith("source/"):
                yield Row(stage, step, f"tokens/{name}", tokens, "tokens")

    def _kind_sums(self, table: Float64[Tensor, "groups 4"]) -> Iterator[tuple[str, list[float]]]:
        for kind in sorted({kind for name in self.sources for kind in self.kinds.get(name, ())}):
            members = [number for number, name in enumerate(self.sources) if kind in self.kinds.get(name, ())]
            yield kind, table[members].sum(0).tolist()


def kinds_of(sources: Sequence[Source]) -> dict[str, tuple[str, ...]]:
    """Each source's role, and its language where it says one."""
    return {
        source.name: (f"role/{source.role}", *([f"language/{source.language}"] if source.language else []))
        for source in sources
    }
