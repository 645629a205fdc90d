"""One optimizer step: a function of the state and this rank's batches. Three small sums over ranks, no more.

The loss is a sum, divided once by the step's weight over all ranks, so it does not matter who holds how many labels.
Whether the step is taken is decided by all ranks from the same numbers before anything moves: a gradient that is not
finite must not reach Adam's moments, where it would stay.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ropewalk.checkpoint.state import TrainState
from ropewalk.core.record import Row
from ropewalk.parallel.agree import refuse_strangers
from ropewalk.parallel.collective import sum_over_ranks
from ropewalk.parallel.mesh import Mesh
from ropewalk.train.batches import StepBatches
from ropewalk.train.guard import see
from ropewalk.train.optimizer import set_learning_rate
from ropewalk.train.tally import Tally

Judge = Callable[[float, float], str]
"""(loss, gradient norm) -> why the step must not be taken, or nothing; it answers all ranks alike."""


def train_step(
    state: TrainState, batches: StepBatches, *, mesh: Mesh, tally: Tally, rate: float, clip: float, judge: Judge
) -> tuple[TrainState, list[Row]]:
    """Take one step at learning rate ``rate``, or skip it on all ranks if ``judge`` finds a fault.

    ``clip`` is the largest gradient norm. The rows are this step's own; what is averaged lies in ``state.sums``.
    """
    weight, imbalance = agree_on_work(batches, mesh)
    table = torch.zeros(tally.shape, dtype=torch.float64, device=mesh.device)
    for micro in batches.micro:
        loss, nll, correct = state.model(
            micro.tokens,
            micro.positions,
            micro.labels,
            micro.weights,
            partition=micro.partition,
            context_group=mesh.context_group,
        )
        (loss / weight).backward()
        table += tally.count(micro, nll, correct)
    gradients = _local_gradients(state.model)
    total = sum_over_ranks(torch.cat((table.flatten(), _square_sum(gradients, mesh)[None]))).cpu()
    table, norm = total[:-1].reshape(tally.shape), math.sqrt(total[-1])
    mean, _ = tally.loss(table)
    taken = not judge(mean, norm)
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        cursor=state.cursor + batches.rows,
        tokens=state.tokens + tally.tokens(table),
        recent=(*state.recent, see(mean, norm, taken=taken)),
    )
    rows = [Row(state.stage, state.step, "lr", rate, "1"), Row(state.stage, state.step, "imbalance", imbalance, "1")]
    if taken:
        _move(state.optimizer, gradients, rate=rate, scale=clip / max(norm, clip))
        state = dataclasses.replace(state, updates=state.updates + 1, sums=_add(state.sums, table))
        rows += [
            Row(state.stage, state.step, "loss/train", mean, "nats per token"),
            Row(state.stage, state.step, "grad_norm", norm, "1"),
        ]
    else:
        state = dataclasses.replace(state, skipped=state.skipped + 1)
        rows.append(Row(state.stage, state.step, "skipped", state.skipped, "steps"))
    state.optimizer.zero_grad()
    return state, rows


def agree_on_work(batches: StepBatches, mesh: Mesh) -> tuple[float, float]:
    """The weight of all labels of the step, and the busiest rank's attention over the mean of all.

    Raises UserError on every rank where ranks that share rows have read different ones: seen here, before one of
    them waits for keys that never come, and in a sum that is needed anyway.
    """
    mine = torch.zeros(1 + 2 * mesh.ranks, dtype=torch.float64, device=mesh.device)
    mine[0] = sum((micro.weights.double().sum() for micro in batches.micro), start=torch.zeros(()))
    mine[1 + mesh.rank] = batches.pairs
    mine[1 + mesh.ranks + mesh.rank] = batches.digest
    weight, *others = sum_over_ranks(mine).tolist()
    pairs, digests = others[: mesh.ranks], others[mesh.ranks :]
    refuse_strangers(digests, context_ranks=mesh.context_ranks)
    return max(weight, 1.0), max(pairs) * mesh.ranks / max(sum(pairs), 1.0)


def _local_gradients(model: nn.Module) -> list[Tensor]:
    gradients = (parameter.grad for parameter in model.parameters())
    return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients if grad is not None]


def _square_sum(gradients: list[Tensor], mesh: Mesh) -> Tensor:
    """Over this rank's shards, each of which lies in every replica: sums over ranks give the whole norm's square."""
    norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1, device=mesh.device)
    # To the device from the host, where states are kept there.
    return norms.double().square().sum().to(mesh.device) / mesh.replicas


def _move(optimizer: torch.optim.Optimizer, gradients: list[Tensor], *, rate: float, scale: float) -> None:
    if scale < 1:
        torch._foreach_mul_(gradients, scale)
    set_learning_rate(optimizer, rate)
    optimizer.step()


def _add(sums: tuple[float, ...], table: Tensor) -> tuple[float, ...]:
    flat: list[float] = table.flatten().tolist()
    return tuple(a + b for a, b in zip(sums, flat, strict=True)) if sums else tuple(flat)
