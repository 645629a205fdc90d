"""Sums and counts by source, position and document length. All averaged metrics of training are computed from them.

They are summed over tokens, micro-batches, ranks and steps, in float64. They are divided only once, when the averaged
metrics are due. The checkpoint holds the running sums, so a resumed run writes the same metrics.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.core.record import Metric
from ropewalk.corpus.spec import Source
from ropewalk.train.batches import MicroBatch

_BUCKETS = 5
_NLL, _WEIGHT, _CORRECT, _TOKENS = range(4)


@dataclass(frozen=True)
class LossMetrics:
    """The groups of the loss metrics, and the table of their sums.

    Groups are the dataset's sources, buckets of the position in the document, and buckets of the document's length.
    Bucket borders double and go up to ``reach_tokens``. A document's length is that of its segment in the sequence. The
    table has one row per group. Its columns are weighted nll, weight, weight of correct labels, tokens.
    """

    sources: tuple[str, ...]
    reach_tokens: int
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Larger groups of each source, such as ``role/domain`` and ``language/zh``. Their sums add those of sources."""

    @property
    def borders(self) -> list[int]:
        """The borders of the buckets in tokens: 0, 128, 256, 512, 1024, 2048 for ``reach_tokens`` of 2048."""
        edges = {self.reach_tokens >> shift for shift in range(_BUCKETS)}
        return [0, *sorted(edge for edge in edges if edge)]

    @property
    def groups(self) -> list[str]:
        """The names of the groups.

        Examples: ``source/law``, ``position/0-128`` (0 to 127 earlier tokens), ``length/128-256`` (129 to 256 tokens).
        """
        buckets = [f"{low}-{high}" for low, high in pairwise(self.borders)]
        kinds = {"source": self.sources, "position": buckets, "length": buckets}
        return [f"{kind}/{name}" for kind, names in kinds.items() for name in names]

    @property
    def averaged(self) -> list[str]:
        """The names of all that ``averages`` may yield: the groups, and the larger groups of sources."""
        return [*self.groups, *self._kind_names]

    @property
    def _kind_names(self) -> list[str]:
        return sorted({kind for name in self.sources for kind in self.kinds.get(name, ())})

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.groups), 4

    def count(
        self, micro: MicroBatch, nll: Float[Tensor, "local"], correct: Bool[Tensor, "local"]
    ) -> Float64[Tensor, "groups 4"]:
        """Return the table of one micro-batch.

        It is a matrix product with one-hot groups: exact, and in a fixed order on any device.
        """
        device, sources, buckets = nll.device, len(self.sources), len(self.borders) - 1
        weights = micro.weights.double()
        columns = torch.stack((weights * nll, weights, weights * correct, (micro.source >= 0).double()), dim=1)
        inner = copy_to_device(torch.tensor(self.borders[1:-1]), device)
        numbers = torch.arange(self.shape[0], device=device)[:, None]
        member = numbers == micro.source
        member |= numbers == torch.bucketize(micro.positions, inner, right=True) + sources
        member |= numbers == torch.bucketize(micro.lengths, inner) + sources + buckets
        return member.double() @ columns

    def loss(self, table: Float64[Tensor, "groups 4"]) -> tuple[float, float]:
        """Return mean nll (nats per token) and accuracy (share) over all sources."""
        total = table[: len(self.sources)].sum(0)
        weight = max(float(total[_WEIGHT]), 1e-300)
        return float(total[_NLL]) / weight, float(total[_CORRECT]) / weight

    def tokens(self, table: Float64[Tensor, "groups 4"]) -> int:
        """Return the number of tokens, of any weight, without padding."""
        return int(table[: len(self.sources), _TOKENS].sum())

    def averages(self, sums: Sequence[float], *, stage: int, step: int) -> Iterator[Metric]:
        """Yield the averaged metrics from ``sums``, which is the flat table. A group without a label has no metric."""
        table = torch.tensor(sums, dtype=torch.float64).reshape(self.shape)
        for name, (nll, weight, correct, tokens) in (
            *zip(self.groups, table.tolist(), strict=True),
            *self._kind_sums(table),
        ):
            if weight:
                yield Metric(stage, step, f"loss/{name}", nll / weight, "nats per token")
                yield Metric(stage, step, f"accuracy/{name}", correct / weight, "share")
            if tokens and name.startswith("source/"):
                yield Metric(stage, step, f"tokens/{name}", tokens, "tokens")

    def _kind_sums(self, table: Float64[Tensor, "groups 4"]) -> Iterator[tuple[str, list[float]]]:
        for kind in self._kind_names:
            members = [number for number, name in enumerate(self.sources) if kind in self.kinds.get(name, ())]
            yield kind, table[members].sum(0).tolist()


def kinds_of(sources: Sequence[Source]) -> dict[str, tuple[str, ...]]:
    """Return the larger groups of each source: its role, and its language where one is given."""
    return {
        source.name: (f"role/{source.role}", *([f"language/{source.language}"] if source.language else []))
        for source in sources
    }
