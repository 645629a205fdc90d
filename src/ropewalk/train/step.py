"""One optimizer step: a function of the state and this rank's batches. Three small sums over ranks, four with LongCE.

The loss is a sum, divided once by the step's weight over all ranks, so it does not matter who holds how many labels.
Whether the step is taken is decided by all ranks from the same numbers before anything moves: a gradient that is not
finite must not reach Adam's moments, where it would stay. A step whose rows hold no label has nothing to take.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ropewalk.checkpoint.state import TrainState
from ropewalk.core.record import Row
from ropewalk.model.loss import weigh_by_context
from ropewalk.parallel.agree import refuse_strangers
from ropewalk.parallel.collective import sum_over_ranks
from ropewalk.parallel.mesh import Mesh
from ropewalk.train.batches import MicroBatch, StepBatches
from ropewalk.train.long_ce import NearReading
from ropewalk.train.loss_metrics import Tally
from ropewalk.train.optimizer import set_learning_rate
from ropewalk.train.spike_guard import UNSEEN, see

Judge = Callable[[float, float], str]
"""(loss, gradient norm) -> why the step must not be taken, or nothing; it answers all ranks alike."""

UNLABELLED = "skipped/unlabelled"
"""The row of a step that was not taken because its labels weigh nothing, all together."""


def train_step(
    state: TrainState, batches: StepBatches, *, mesh: Mesh, tally: Tally, rate: float, clip: float, judge: Judge
) -> tuple[TrainState, list[Row]]:
    """Take one step at learning rate ``rate``, or skip it on all ranks if ``judge`` finds a fault.

    A step without a label is not taken either: ``judge`` is not asked, and remembers neither loss nor norm of it.
    ``clip`` is the largest gradient norm. The rows are this step's own; what is averaged lies in ``state.sums``.
    """
    weight, imbalance = agree_on_work(batches, mesh)
    table, given = _add_gradients(state.model, batches, mesh=mesh, tally=tally, weight=weight)
    gradients = _local_gradients(state.model)
    total = sum_over_ranks(torch.cat((table.flatten(), given, _square_sum(gradients, mesh)[None]))).cpu()
    table, (far_weight, far_tokens, square) = total[:-3].reshape(tally.shape), total[-3:].tolist()
    norm, (mean, _) = math.sqrt(square), tally.loss(table)
    taken = weight != 0 and not judge(mean, norm)
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        cursor=state.cursor + batches.rows,
        tokens=state.tokens + tally.tokens(table),
        recent=(*state.recent, see(mean, norm, taken=taken) if weight != 0 else UNSEEN),
    )
    rows = [Row(state.stage, state.step, "lr", rate, "1"), Row(state.stage, state.step, "imbalance", imbalance, "1")]
    if far_tokens:
        rows.append(Row(state.stage, state.step, "long_ce/weight", far_weight / far_tokens, "1"))
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
        if weight == 0:
            rows.append(Row(state.stage, state.step, UNLABELLED, 1, "1"))
    state.optimizer.zero_grad()
    return state, rows


def _add_gradients(
    model: nn.Module, batches: StepBatches, *, mesh: Mesh, tally: Tally, weight: float
) -> tuple[Tensor, Float64[Tensor, "2"]]:
    """Run all micro-batches; the tally's table of this rank, and the sum of LongCE's weights with their number.

    The loss is divided by ``weight``, the sum of the weights before LongCE's: as in the paper, by tokens.
    """
    table = torch.zeros(tally.shape, dtype=torch.float64, device=mesh.device)
    given = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    for micro in batches.micro:
        near_nll = read_near(model, micro, mesh)
        loss, nll, correct = _read(model, micro, mesh, near_nll)
        (loss / (weight or 1.0)).backward()
        table += tally.count(micro, nll, correct)
        if near_nll is not None:
            weights = weigh_by_context(nll, near_nll, most=cast(float, model.most))[micro.weighed].double()
            given += torch.stack((weights.sum(), weights.new_tensor(len(weights))))
    return table, given


def read_near(model: nn.Module, micro: MicroBatch, mesh: Mesh) -> Float[Tensor, "local"] | None:
    """Each label's nll with near context only, NaN where that is all there is; None where nothing is weighed.

    Blocks are cut over the context ranks in their own way, so each token's figure is sent to the rank that has it in
    the row itself: a sum over those ranks, to which one of them gives something.
    """
    if micro.weighed is None:
        return None
    near_nll = torch.zeros(micro.partition.tokens, dtype=torch.float64, device=mesh.device)
    with torch.no_grad():
        for reading in micro.near:
            _, nll, _ = _read(model, reading, mesh)
            near_nll[reading.packed] += nll.double()  # 0 where it is not asked for
    near_nll = sum_over_ranks(near_nll, group=mesh.context_group)
    packed = torch.from_numpy(micro.partition.owned(mesh.context_rank)).to(mesh.device)
    return near_nll[packed].masked_fill(~micro.weighed, math.nan)


def _read(
    model: nn.Module, part: MicroBatch | NearReading, mesh: Mesh, near_nll: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What a learner says of this rank's part of some rows: weighed loss, nll, and which labels are likeliest."""
    said: tuple[Tensor, Tensor, Tensor] = model(
        part.tokens,
        part.positions,
        part.labels,
        part.weights,
        partition=part.partition,
        context_group=mesh.context_group,
        near_nll=near_nll,
    )
    return said


def agree_on_work(batches: StepBatches, mesh: Mesh) -> tuple[float, float]:
    """The weight of all labels of the step, 0 where it has none, and the busiest rank's attention over the mean of all.

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
    return weight, max(pairs) * mesh.ranks / max(sum(pairs), 1.0)


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
