"""The experts' part of a step: which forwards are counted, when the counts of all ranks are known, and their metrics.

The balance loss needs the choices of the whole step. With ``balance_counts: step`` all micro-batches but the first are
read ahead without gradients; the first is counted in its own forward, so a step of one micro-batch reads nothing twice.
Otherwise the choices of the former step weigh the loss, and the counts travel with the sums that end the step.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from ropewalk.core.record import Metric
from ropewalk.model.expert_balance import ExpertBalance, StepBalance
from ropewalk.parallel.collective import sum_over_ranks
from ropewalk.train.batches import MicroBatch, StepBatches

Sums = Float64[Tensor, "layers sums"]


def find_balance(model: nn.Module) -> ExpertBalance | None:
    """Return the balance of the experts of a model with loss; None for a dense model."""
    balance: ExpertBalance | None = getattr(model, "balance", None)
    return balance


def watch_reading(
    balance: ExpertBalance | None, micro: MicroBatch, *, counts: bool = True
) -> AbstractContextManager[None]:
    """Inside, the forward of ``micro`` is counted if ``counts`` is true. The source of padding is -1."""
    return nullcontext() if balance is None else balance.read(micro.source >= 0, counts=counts)


def count_ahead(balance: ExpertBalance | None, batches: StepBatches, read: Callable[[MicroBatch], Any]) -> bool:
    """Count all micro-batches but the first by ``read``, where the loss needs them; return whether it did."""
    if not _is_exact(balance) or len(batches.micro) == 1:
        return False
    with torch.no_grad():
        for micro in batches.micro[1:]:
            with watch_reading(balance, micro):
                read(micro)
    return True


def share_counts(balance: ExpertBalance | None) -> None:
    """After the first forward, give the loss the counts of all ranks, if it needs those of this step."""
    if balance is not None and _is_exact(balance):
        assert balance.table is not None
        # one copy to the device; each layer's backward would wait for one of its own
        balance.shares = balance.describe(sum_over_ranks(balance.table)).shares.to(balance.table.device)


def local_sums(balance: ExpertBalance | None) -> list[Float64[Tensor, "sums"]]:
    """Return this rank's sums of the step as one flat tensor; an empty list for a dense model."""
    return [] if balance is None or balance.table is None else [balance.table.flatten()]


def describe_experts(balance: ExpertBalance | None, total: Float64[Tensor, "sums"]) -> StepBalance | None:
    """Return what the sums of all ranks say; None for a dense model."""
    return None if balance is None else balance.describe(total.reshape(len(balance.routers), -1))


def step_metrics(balance: ExpertBalance | None, found: StepBalance | None) -> list[tuple[str, float, str]]:
    """Return the metrics of every step: over the layers, the greatest load, and the mean losses."""
    if balance is None or found is None:
        return []
    metrics = [
        ("experts/load", float(found.loads.max()), "1"),
        ("experts/balance_loss", float(found.losses.mean()), "1"),
    ]
    if balance.rules.z_loss:
        metrics.append(("experts/z_loss", float(found.z_losses.mean()), "1"))
    return metrics


def layer_metrics(model: nn.Module, *, stage: int, step: int) -> Iterator[Metric]:
    """Yield the load of each layer in the last step: that of its busiest expert, divided by the mean."""
    balance = find_balance(model)
    if balance is not None and balance.last is not None:
        for router, load in zip(balance.routers, balance.last.loads.tolist(), strict=True):
            yield Metric(stage, step, f"experts/load/layer-{router.layer}", load, "1")


def _is_exact(balance: ExpertBalance | None) -> bool:
    return balance is not None and bool(balance.rules.balance_loss) and balance.rules.balance_counts == "step"
