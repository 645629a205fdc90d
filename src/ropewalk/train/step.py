"""One optimizer step, as a function of the state and this rank's batches.

A step needs three small sums over ranks, and four with LongCE. The host reads two of them, and waits for the device
nowhere else. The loss is a sum that is divided once by the step's weight over all ranks. So the number of labels on
each rank does not matter. All ranks decide from the same numbers whether to take the step, before any weight changes: a
gradient that is not finite must not reach Adam's moments, where it would stay. A step whose sequences have no label is
skipped.
"""

import dataclasses
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.checkpoint.state import TrainState, count_update
from ropewalk.core.record import Metric
from ropewalk.model.expert_balance import StepBalance
from ropewalk.model.loss import weigh_by_context
from ropewalk.parallel.agree import refuse_strangers
from ropewalk.parallel.collective import sum_over_ranks
from ropewalk.parallel.mesh import Mesh
from ropewalk.recipe.gates import Guard
from ropewalk.train.batches import MicroBatch, StepBatches
from ropewalk.train.expert_step import (
    count_ahead,
    describe_experts,
    find_balance,
    local_sums,
    share_counts,
    step_metrics,
    watch_reading,
)
from ropewalk.train.long_ce import TruncatedReading
from ropewalk.train.loss_metrics import LossMetrics
from ropewalk.train.optimizer import list_frozen, set_learning_rate
from ropewalk.train.spike_guard import UNSEEN, judge_step, see

UNLABELLED = "none of its sequences has a label with loss"
"""The reason of a step that was skipped because the sum of its label weights is 0."""


@dataclass(frozen=True)
class StepGradients:
    """The results of a step's backward, before a weight changes. All but ``gradients`` are the same on every rank."""

    loss: float
    """Nats per token, over all ranks."""
    norm: float
    """The norm of the gradient over all parameters."""
    gradients: list[Float[Tensor, "..."]]
    """This rank's shards of the gradients."""
    table: Float64[Tensor, "counts groups"]
    """The loss metrics of all ranks."""
    weight: float
    """The sum of the weights of all labels; 0 if there is none."""
    imbalance: float
    """The busiest rank's attention work, divided by the mean."""
    far_weight: float | None
    """LongCE: the mean weight of the tokens with more than truncated context; None where there is none."""
    experts: StepBalance | None
    """The load of the experts; None for a dense model."""


@dataclass(frozen=True)
class StepResult:
    """A step that was taken or skipped. ``reason`` says why it was skipped, and is empty if it was taken."""

    state: TrainState
    metrics: list[Metric]
    reason: str


def train_step(
    state: TrainState,
    batches: StepBatches,
    *,
    mesh: Mesh,
    loss_metrics: LossMetrics,
    rate: float,
    max_grad_norm: float,
    guard: Guard,
    frozen: bool = False,
) -> StepResult:
    """Take one step at learning rate ``rate``, or skip it on all ranks if ``guard`` finds a fault in it.

    ``frozen``: only the weights with which the optimizer begins are trained.
    A step without a label is skipped too: then neither its loss nor its norm enters the guard's memory. The metrics are
    those of this step only; the sums for averaged metrics are in ``state.sums``.
    """
    still = list_frozen(state.optimizer) if frozen else []
    found = compute_gradients(state.model, batches, mesh=mesh, loss_metrics=loss_metrics, frozen=still)
    reason = judge_step(state.recent, found.loss, found.norm, guard=guard) if found.weight else UNLABELLED
    seen = see(found.loss, found.norm, taken=not reason) if found.weight else UNSEEN
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        cursor=state.cursor + batches.sequences,
        tokens=state.tokens + loss_metrics.tokens(found.table),
        recent=(*state.recent, seen)[-guard.window :],
    )
    balance = find_balance(state.model)
    if balance is not None:
        balance.last = found.experts
    metrics = [("lr", rate, "1"), ("imbalance", found.imbalance, "1"), *step_metrics(balance, found.experts)]
    if found.far_weight is not None:
        metrics.append(("long_ce/weight", found.far_weight, "1"))
    if not reason:
        scale = max_grad_norm / max(found.norm, max_grad_norm)
        _move(state.optimizer, found.gradients, rate=rate, scale=scale, frozen=frozen)
        if balance is not None and found.experts is not None:
            balance.finish(found.experts)
        state = count_update(state, still)
        state = dataclasses.replace(state, sums=_add(state.sums, found.table))
        metrics += [("loss/train", found.loss, "nats per token"), ("grad_norm", found.norm, "1")]
    else:
        state = dataclasses.replace(state, skipped=state.skipped + 1)
        metrics.append(("skipped", state.skipped, "steps"))
        if reason == UNLABELLED:
            metrics.append(("skipped/unlabelled", 1, "1"))
    state.optimizer.zero_grad()
    return StepResult(state, [Metric(state.stage, state.step, *each) for each in metrics], reason)


def compute_gradients(
    model: nn.Module,
    batches: StepBatches,
    *,
    mesh: Mesh,
    loss_metrics: LossMetrics,
    frozen: Sequence[nn.Parameter] = (),
) -> StepGradients:
    """Run forward and backward of a step, and agree over all ranks on its loss and gradient norm. Every rank calls it.

    ``frozen`` get no gradients: the optimizer then leaves their weights, moments and counts of updates as they are.
    The gradients are in the parameters too, and no weight changes. Raises UserError on every rank where ranks that
    share sequences have read different ones.
    """
    work, balance = agree_on_work(batches, mesh), find_balance(model)
    with nullcontext() if balance is None else balance.step(work.tokens):
        table, given = _add_gradients(model, batches, mesh=mesh, loss_metrics=loss_metrics, weight=work.weight)
    for parameter in frozen:
        parameter.grad = None
    gradients, own = _local_gradients(model), local_sums(balance)
    sums = (table.flatten(), given, _square_sum(gradients, mesh)[None], *own)
    table, far, norm, *choices = sum_over_ranks(torch.cat(sums)).cpu().split([len(each) for each in sums])
    table, (far_weight, far_tokens), square = table.reshape(loss_metrics.shape), far.tolist(), float(norm)
    return StepGradients(
        loss=loss_metrics.loss(table)[0],
        norm=math.sqrt(square),
        gradients=gradients,
        table=table,
        weight=work.weight,
        imbalance=work.imbalance,
        far_weight=far_weight / far_tokens if far_tokens else None,
        experts=describe_experts(balance, choices[0]) if choices else None,
    )


def _add_gradients(
    model: nn.Module, batches: StepBatches, *, mesh: Mesh, loss_metrics: LossMetrics, weight: float
) -> tuple[Float64[Tensor, "groups 4"], Float64[Tensor, "2"]]:
    """Run forward and backward of all micro-batches.

    Returns this rank's table of the loss metrics, and the sum of LongCE's weights with their number. The loss is
    divided by ``weight``, the sum of the weights without those of LongCE. So it is divided by tokens, as in the paper.
    """
    table = torch.zeros(loss_metrics.shape, dtype=torch.float64, device=mesh.device)
    given = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    balance = find_balance(model)
    counted_ahead = count_ahead(balance, batches, lambda micro: _read(model, micro, mesh))
    for number, micro in enumerate(batches.micro):
        truncated_nll = read_truncated(model, micro, mesh)
        with watch_reading(balance, micro, counts=number == 0 or not counted_ahead):
            loss, nll, correct = _read(model, micro, mesh, truncated_nll)
        if number == 0:
            share_counts(balance)
        (loss / (weight or 1.0)).backward()
        table += loss_metrics.count(micro, nll, correct)
        if truncated_nll is not None:
            weights = weigh_by_context(nll, truncated_nll, most=cast(float, model.most)).double()
            assert micro.weighed is not None
            given += torch.stack((torch.where(micro.weighed, weights, 0).sum(), micro.weighed.double().sum()))
    return table, given


def read_truncated(model: nn.Module, micro: MicroBatch, mesh: Mesh) -> Float[Tensor, "local"] | None:
    """Return each label's nll with truncated context; None without LongCE.

    The value is NaN where the token has no context beyond that. The blocks have a partition of their own, so each
    token's value is sent to the rank that holds the token in the sequence. This is a sum over the context ranks, in
    which only one rank has a value other than 0.
    """
    if micro.weighed is None:
        return None
    truncated_nll = torch.zeros(micro.partition.tokens, dtype=torch.float64, device=mesh.device)
    with torch.no_grad():
        for reading in micro.truncated:
            _, nll, _ = _read(model, reading, mesh)
            truncated_nll[reading.packed] += nll.double()  # 0 for tokens that do not count in this reading
    truncated_nll = sum_over_ranks(truncated_nll, group=mesh.context_group)
    packed = copy_to_device(micro.partition.owned(mesh.context_rank), mesh.device)
    return truncated_nll[packed].masked_fill(~micro.weighed, math.nan)


def _read(
    model: nn.Module,
    part: MicroBatch | TruncatedReading,
    mesh: Mesh,
    truncated_nll: Float[Tensor, "local"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "local"], Bool[Tensor, "local"]]:
    """Run the model with loss on this rank's local shard of some sequences.

    Returns the weighted loss, the nll of each label, and whether each label has the highest probability.
    """
    said: tuple[Tensor, Tensor, Tensor] = model(
        part.tokens,
        part.positions,
        part.labels,
        part.weights,
        partition=part.partition,
        context_group=mesh.context_group,
        truncated_nll=truncated_nll,
        counted=part.counted,
    )
    return said


class StepWork(NamedTuple):
    """Facts about a step that all ranks know before they read it."""

    weight: float
    """The weight of all labels; 0 if there is none."""
    tokens: float
    """The tokens without padding."""
    imbalance: float
    """The busiest rank's attention work, divided by the mean."""


def agree_on_work(batches: StepBatches, mesh: Mesh) -> StepWork:
    """Return the sums of the step over all ranks.

    Raises UserError on every rank where ranks that share sequences have read different ones. The check is made here,
    before one of them waits for keys that never come. It uses a sum that is needed anyway.
    """
    host = torch.zeros(2 + 2 * mesh.ranks, dtype=torch.float64)
    host[2 + mesh.rank] = batches.pairs
    host[2 + mesh.ranks + mesh.rank] = batches.digest
    mine = copy_to_device(host, mesh.device)  # numbers put into a GPU's tensor one by one would each wait for it
    for micro in batches.micro:
        mine[0] += micro.weights.double().sum()
        mine[1] += (micro.source >= 0).sum()
    weight, tokens, *others = sum_over_ranks(mine).tolist()
    pairs, digests = others[: mesh.ranks], others[mesh.ranks :]
    refuse_strangers(digests, context_ranks=mesh.context_ranks)
    return StepWork(weight, tokens, max(pairs) * mesh.ranks / max(sum(pairs), 1.0))


def _local_gradients(model: nn.Module) -> list[Float[Tensor, "..."]]:
    gradients = (parameter.grad for parameter in model.parameters())
    return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients if grad is not None]


def _square_sum(gradients: list[Float[Tensor, "..."]], mesh: Mesh) -> Float64[Tensor, ""]:
    """Return this rank's term of the squared gradient norm; the sum over all ranks is the square of the whole norm.

    Each shard exists in every replica, so the term is divided by the number of replicas.
    """
    norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1, device=mesh.device)
    # With states on the host, the sum must be copied to the device.
    return norms.double().square().sum().to(mesh.device) / mesh.replicas


def _move(
    optimizer: torch.optim.Optimizer, gradients: list[Float[Tensor, "..."]], *, rate: float, scale: float, frozen: bool
) -> None:
    if scale < 1:
        torch._foreach_mul_(gradients, scale)
    set_learning_rate(optimizer, rate, frozen=frozen)
    optimizer.step()


def _add(sums: tuple[float, ...], table: Float64[Tensor, "groups 4"]) -> tuple[float, ...]:
    flat: list[float] = table.flatten().tolist()
    return tuple(a + b for a, b in zip(sums, flat, strict=True)) if sums else tuple(flat)
