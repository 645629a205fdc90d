"""Read items with a model in training: weights are sharded over all ranks, sequences are cut over context ranks.

So a measurement needs no second copy of the weights, and no more memory for a sequence than training does. Ranks gather
weights together, so all ranks must read equally often. Data ranks take sequences in turn; a rank without one reads
padding.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float64
from torch import nn

from ropewalk.evaluate.items import Item, Sums, lay_sequence, pack_items
from ropewalk.evaluate.needle_shares import NeedleShares
from ropewalk.parallel.collective import sum_over_ranks
from ropewalk.parallel.fsdp import reshard_model
from ropewalk.parallel.mesh import Mesh
from ropewalk.partition import local_shard
from ropewalk.partition.choose import Sharing, choose_partition


def measure_shared(
    model: nn.Module,
    items: Sequence[Item],
    groups: int,
    *,
    mesh: Mesh,
    sharing: Sharing,
    sequence_tokens: int,
    shares: NeedleShares | None = None,
) -> Sums:
    """Read ``items`` in sequences of up to ``sequence_tokens`` and sum each group, as ``items.measure`` does.

    ``model`` is a sharded learner; its state is restored. Every rank calls it with the same items. ``shares`` gets the
    attention of each head to the items' needles.
    """
    table = torch.zeros(3, groups, dtype=torch.float64)
    sequences = list(pack_items(items, sequence_tokens=sequence_tokens))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for first in range(0, len(sequences), mesh.data_ranks):
            mine = sequences[first + mesh.data_rank : first + mesh.data_rank + 1]
            sequence = mine[0] if mine else []
            with nullcontext() if shares is None else shares.watch(sequence, mesh=mesh, sharing=sharing):
                _add_sequence(table, model, sequence, mesh=mesh, sharing=sharing)
    if shares is not None:
        shares.sum_over_ranks()
    reshard_model(model)
    model.train(was_training)
    count, nll, correct = sum_over_ranks(table).numpy()
    return Sums(count, nll, correct)


def _add_sequence(
    table: Float64[torch.Tensor, "3 groups"], model: nn.Module, sequence: list[Item], *, mesh: Mesh, sharing: Sharing
) -> None:
    laid = lay_sequence(sequence, multiple=mesh.context_ranks)
    partition = choose_partition(laid.document[None], ranks=mesh.context_ranks, sharing=sharing).partition
    tokens, positions, labels, group = (
        torch.from_numpy(local_shard(partition, mesh.context_rank, field[None]))
        for field in (laid.tokens, laid.positions, laid.labels, laid.group)
    )
    counted = group >= 0
    _, nll, correct = model(
        tokens.to(mesh.device),
        positions.to(mesh.device),
        labels.to(mesh.device),
        counted.float().to(mesh.device),
        partition=partition,
        context_group=mesh.context_group,
    )
    figures = torch.stack((torch.ones_like(nll), nll, correct.float())).cpu()[:, counted]
    table.index_add_(1, group[counted], figures.double())
