"""All that a stage of training is at one step: weights, optimizer moments, random states, and a few plain figures.

Tensors are named flatly (``weight/NAME``, ``exp_avg/NAME``, ``rng/cpu/RANK``) and stay sharded; the rest is JSON. The
moments are addressed by the parameter's name and never by its place in the optimizer, so groups may be cut anew. What
is frozen is no part of it: it lies in the model folder that the stage starts from, whose digest is among the inputs.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from ropewalk.parallel.collective import rank_and_ranks

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight/"
STATE = "state.json"
"""The file with everything that is no tensor."""
_FIGURES = ("stage", "step", "cursor", "tokens", "updates", "skipped", "rollbacks", "sums", "recent", "ended", "plan")
TileMask = tuple[float | None, float | None, bool]
"""One step as the guard saw it: loss, gradient norm (None where there is none or it is not finite), whether it found no
fault with it."""


@dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds. The counters are replaced from step to step, model and optimizer change in place.

    ``step`` counts the stage's steps, ``cursor`` the global rows it has consumed, ``tokens`` what was in them;
    ``updates`` counts the optimizer's moves over all stages, ``skipped`` the stage's steps without one, ``rollbacks``
    how often it went back to a checkpoint and past the data. ``sums`` is what the running panel has added up;
    ``recent`` is what the guard remembers (train/spike_guard.py). ``ended`` says how the stage ended (``solved`` or
    ``limit``), or is empty. Whoever resumes must bring the same ``inputs`` (digests of recipe and data); ``plan`` is
    how the stage was meant to go on and end, as plain data, and may be another one by then (train/resume.py).
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
    recent: tuple[TileMask, ...] = ()
    ended: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """The counters and the plan, as JSON-like data."""
        return {name: getattr(self, name) for name in _FIGURES}

    def with_figures(self, figures: Mapping[str, Any]) -> "TrainState":
        """This state at the counters that ``figures`` gave."""
        values = {name: figures[name] for name in _FIGURES}
        sights = tuple((loss, norm, bool(taken)) for loss, norm, taken in values["recent"])
        return dataclasses.replace(self, **{**values, "sums": tuple(values["sums"]), "recent": sights})


def name_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that are trained, as transformers' files name them; a tied one once."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name.removeprefix("causal."), parameter


def name_tensors(state: TrainState) -> dict[str, Tensor]:
    """Weights and moments, all of them this rank's part of a whole; moments that do not exist yet are made, as zeros.

    torch's AdamW makes them at its first step only, and a checkpoint must find them before. One that keeps them in
    another form has made them already.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in name_weights(state.model):
        moments = state.optimizer.state[parameter]
        if not moments:
            # AdamW's own first state: its count lies on the device where the step is fused, which ours is.
            moments["step"] = torch.tensor(float(state.updates), device=parameter.device)
            moments |= {moment: torch.zeros_like(parameter) for moment in MOMENTS}
        tensors[WEIGHT + name] = parameter.detach()
        tensors |= {f"{moment}/{name}": value for moment, value in moments.items() if moment != "step"}
    return tensors


@dataclass(frozen=True)
class Snapshot:
    """A state as it was at one moment, on this rank's host memory: what a save reads while training goes on."""

    step: int
    stage: int
    figures: Mapping[str, Any]
    inputs: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def take_snapshot(state: TrainState) -> Snapshot:
    """Copy this rank's parts and generators. The optimizer changes its tensors in place, so the copy is needed."""
    parts = {name: _copy_to_host(tensor) for name, tensor in name_tensors(state).items()}
    return Snapshot(state.step, state.stage, state.figures(), dict(state.inputs), {**parts, **random_states()})


def _copy_to_host(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu() if tensor.device.type != "cpu" else tensor.detach().clone()


def set_updates(state: TrainState) -> None:
    """Tell the optimizer how often it has moved, which sets Adam's bias correction."""
    for moments in state.optimizer.state.values():
        moments["step"].fill_(float(state.updates))


def random_states() -> dict[str, UInt8[Tensor, "bytes"]]:
    """This rank's generators under keys that no other rank uses: of one key, only one rank's value would be kept."""
    rank, _ = rank_and_ranks()
    states = {f"rng/cpu/{rank:05}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"rng/cuda/{rank:05}"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Put this rank's generators where ``states`` says."""
    for name, value in states.items():
        if name.startswith("rng/cpu/"):
            torch.set_rng_state(value)
        else:
            torch.cuda.set_rng_state(value)
