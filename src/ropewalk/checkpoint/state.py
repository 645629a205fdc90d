"""The state of a training stage at one step: weights, optimizer moments, random states, and a few plain figures.

Tensors have flat names (``weight/NAME``, ``exp_avg/NAME``, ``rng/cpu/RANK``) and stay sharded; the rest is JSON. A
moment is found by its parameter's name and never by the parameter's index in the optimizer, so parameter groups may
change. Frozen weights are not part of the state. They lie in the model folder that the stage starts from, and the
digest of this folder is one of the inputs.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor, nn

from ropewalk.checkpoint.staging import HostStage
from ropewalk.model.expert_balance import ExpertBalance
from ropewalk.model.load_shards import find_stored_buffers
from ropewalk.parallel.collective import rank_and_ranks
from ropewalk.parallel.device import rank_device
from ropewalk.parallel.rank_shards import map_shard

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight/"
SHARES = "experts/shares"
"""The name of the experts' shares of the choices of a step (model/expert_balance.py)."""
_FIGURES = (
    *("stage", "step", "cursor", "tokens", "updates", "skipped", "rollbacks", "sums", "recent", "ended", "plan"),
    "missed",
)
StepRecord = tuple[float | None, float | None, bool]
"""One step in the guard's memory: loss, gradient norm, and whether the guard found no fault. Loss and norm are None
where there is none or where the value is not finite."""


@dataclass(frozen=True)
class TrainState:
    """The contents of a checkpoint. Each step replaces the counters; model and optimizer change in place.

    ``step`` counts the stage's steps. ``cursor`` counts the global sequences that were consumed, ``tokens`` the tokens
    in them. ``updates`` counts the optimizer's updates over all stages, ``missed`` those of them that a weight had no
    part in while it was frozen, by its name. ``skipped`` counts the stage's steps without an update. ``rollbacks``
    counts how often the stage went back to a checkpoint and continued after the bad data. ``sums`` are the running sums
    of the averaged metrics. ``recent`` is the guard's memory (train/spike_guard.py). ``ended`` is how the stage ended
    (``solved`` or ``limit``), or empty. A run can be resumed only with the same ``inputs`` (digests of recipe and
    data). ``plan`` is the planned continuation and end of the stage, as plain data.
    It may have changed when the run is resumed (train/resume.py).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    stage: int
    step: int = 0
    cursor: int = 0
    tokens: int = 0
    updates: int = 0
    skipped: int = 0
    rollbacks: int = 0
    sums: tuple[float, ...] = ()
    recent: tuple[StepRecord, ...] = ()
    ended: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Return the counters and the plan, as JSON-like data."""
        return {name: getattr(self, name) for name in _FIGURES}

    def updates_of(self, name: str) -> int:
        """Return the updates of the weight ``name``, which Adam's bias correction depends on."""
        return self.updates - self.missed.get(name, 0)

    def with_figures(self, figures: Mapping[str, Any]) -> "TrainState":
        """Return this state with the counters and the plan from ``figures``."""
        values = {"missed": {}, **figures}  # checkpoints of before say nothing of missed updates
        values = {name: values[name] for name in _FIGURES}
        sights = tuple((loss, norm, bool(taken)) for loss, norm, taken in values["recent"])
        return dataclasses.replace(self, **{**values, "sums": tuple(values["sums"]), "recent": sights})


def name_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the trained parameters under the names in transformers' files. A tied parameter appears once."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name.removeprefix("causal."), parameter


def name_frozen(model: nn.Module) -> list[str]:
    """Return the names of the weights that training does not change, in their order in the model."""
    moving = _name_experts(model)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    frozen += [name for name, _, _ in find_stored_buffers(model) if WEIGHT + name not in moving]
    return [name.removeprefix("causal.") for name in frozen]


def _name_experts(model: nn.Module) -> dict[str, Shaped[Tensor, "..."]]:
    """Return what a step changes in a mixture of experts besides its parameters."""
    balance: ExpertBalance | None = getattr(model, "balance", None)
    if balance is None:
        return {}
    biases = balance.biases if balance.rules.bias_update else {}
    shares = {SHARES: balance.shares} if balance.keeps_shares else {}
    return {WEIGHT + name: bias for name, bias in biases.items()} | shares


def make_moments(parameter: Shaped[Tensor, "..."], updates: int) -> dict[str, Shaped[Tensor, "..."]]:
    """Return AdamW's state of a parameter after ``updates`` updates without a gradient; AdamW begins with 0 of them.

    Our step is fused, so the count lies on the device, where it is filled in: a copy of a number would wait for a GPU.
    """
    zeros = {moment: map_shard(parameter, torch.zeros_like) for moment in MOMENTS}
    return {"step": torch.full((), float(updates), device=parameter.device)} | zeros


def name_tensors(state: TrainState) -> dict[str, Shaped[Tensor, "..."]]:
    """Return weights and moments by name, each as this rank's shard. Moments that do not exist yet are made, as zeros.

    torch's AdamW makes its moments only at the first step, and a checkpoint needs them before. An optimizer that keeps
    moments in another form has already made them.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in name_weights(state.model):
        moments = state.optimizer.state[parameter]
        if not moments:
            moments |= make_moments(parameter, state.updates_of(name))
        tensors[WEIGHT + name] = map_shard(parameter, torch.detach)
        tensors |= {f"{moment}/{name}": value for moment, value in moments.items() if moment != "step"}
    return tensors | _name_experts(state.model)


@dataclass(frozen=True)
class Snapshot:
    """A copy of a state at one moment, in this rank's host memory. A save reads it while training continues."""

    step: int
    stage: int
    figures: Mapping[str, Any]
    inputs: Mapping[str, Any]
    tensors: Mapping[str, Shaped[Tensor, "..."]]


def take_snapshot(state: TrainState, stage: HostStage | None = None) -> Snapshot:
    """Copy this rank's shards and random states to host memory, through ``stage`` where saves share one.

    The copy is needed because the optimizer changes its tensors in place.
    """
    parts = (stage or HostStage(rank_device())).copy(name_tensors(state))
    return Snapshot(state.step, state.stage, state.figures(), dict(state.inputs), {**parts, **random_states()})


def count_update(state: TrainState, frozen: Sequence[nn.Parameter] = ()) -> TrainState:
    """Return ``state`` after an update of the optimizer in which the weights ``frozen`` had no part."""
    still = {id(parameter) for parameter in frozen}
    names = [name for name, parameter in name_weights(state.model) if id(parameter) in still] if still else []
    missed = {**state.missed, **{name: state.missed.get(name, 0) + 1 for name in names}}
    return dataclasses.replace(state, updates=state.updates + 1, missed=missed)


def set_updates(state: TrainState) -> None:
    """Set the optimizer's count of updates of each weight. Adam's bias correction depends on it."""
    for name, parameter in name_weights(state.model):
        if moments := state.optimizer.state.get(parameter):
            moments["step"].fill_(float(state.updates_of(name)))


def random_states() -> dict[str, UInt8[Tensor, "bytes"]]:
    """Return the states of this rank's random generators. The keys contain the rank.

    Under a common key, only one rank's value would be kept.
    """
    rank, _ = rank_and_ranks()
    states = {f"rng/cpu/{rank:05}": torch.get_rng_state()}
    if rank_device().type == "cuda":
        states[f"rng/cuda/{rank:05}"] = torch.cuda.get_rng_state(rank_device())
    return states


def set_random_states(states: Mapping[str, UInt8[Tensor, "bytes"]]) -> None:
    """Set this rank's random generators to ``states``."""
    for name, value in states.items():
        if name.startswith("rng/cpu/"):
            torch.set_rng_state(value)
        else:
            torch.cuda.set_rng_state(value, rank_device())
