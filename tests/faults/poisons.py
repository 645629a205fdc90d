"""NaN and infinity in losses, gradients and activations of one rank: weights and moments stay as they were."""

import dataclasses
import random
from typing import Any

import torch
import torch.distributed as dist

from faults.experiment import Experiment
from faults.ground import CONTEXT, DATA, STEPS, Ground, make, train
from ropewalk.checkpoint.state import name_tensors
from ropewalk.core.record import read_metrics
from ropewalk.core.seed import seed_for
from ropewalk.train import step as step_module

_PLACES = ("weights", "gradient", "activation", "hidden", "parameter")
_VALUES = {"nan": float("nan"), "inf": float("inf")}


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """A trial is "place-value-number": in one step, on one rank, one number is poisoned."""
    place, value, number = trial.split("-")
    draw = random.Random(seed_for("poison", trial))
    step, culprit = draw.randrange(1, STEPS - 1), draw.randrange(2)
    run = ground.new_run(f"poison-{trial}")
    seen: dict[str, list[torch.Tensor]] = {}
    if not guarded:
        step_module.judge_step = lambda recent, loss, norm, *, guard: ""

    def change(state: Any, batches: Any) -> Any:
        if state.step == step + 1:
            _compare(seen["before"], state)
        if state.step != step:
            return batches
        seen["before"] = _copy(state)
        if dist.get_rank() != culprit:
            return batches
        return _poison(place, _VALUES[value], state, batches)

    parallel = CONTEXT if int(number) % 2 else DATA
    try:
        train(ground, run, make(parallel=parallel), change=change, noisy=False)
    except Exception as error:
        return str(error).splitlines()[-1]
    skipped = [row.step for row in read_metrics(run / "metrics.jsonl") if row.name == "skipped"]
    return "" if skipped == [step + 1] else f"skipped were {skipped}, not {[step + 1]}"


def _poison(place: str, value: float, state: Any, batches: Any) -> Any:
    causal = state.model.causal
    if place == "weights":
        micro = batches.micro[0]
        weights = micro.weights.clone()
        weights[int(weights.nonzero()[0])] = value
        return dataclasses.replace(batches, micro=(dataclasses.replace(micro, weights=weights), *batches.micro[1:]))
    if place in ("gradient", "parameter"):
        parameter = [*causal.parameters()][0 if place == "gradient" else -1]

        def spoil(parameter: Any) -> None:
            parameter.grad.to_local().view(-1)[:1] = value
            handle.remove()

        handle = parameter.register_post_accumulate_grad_hook(spoil)
        return batches
    module = causal.get_input_embeddings() if place == "activation" else causal.model.layers[-1].mlp

    def spoil_output(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
        once.remove()
        return out + torch.zeros_like(out).index_fill(-1, torch.tensor([0]), value)

    once = module.register_forward_hook(spoil_output)
    return batches


def _copy(state: Any) -> list[torch.Tensor]:
    return [tensor.to_local().clone() for tensor in name_tensors(state).values()]


def _compare(before: list[torch.Tensor], state: Any) -> None:
    if not all(torch.equal(old, new) for old, new in zip(before, _copy(state), strict=True)):
        raise ValueError("a weight or a moment has moved")


POISONS = Experiment(
    name="non-finite numbers",
    promise="the step is skipped on all ranks, weights and moments untouched to the bit",
    control="every step is taken",
    trials=[f"{place}-{value}-{number}" for place in _PLACES for value in _VALUES for number in range(2)],
    controls=[f"{place}-{value}-{number}" for place in _PLACES for value in _VALUES for number in range(2)],
    quick=["hidden-nan-1", "gradient-inf-0"],
    quick_controls=["gradient-nan-0"],
    attempt=attempt,
)
