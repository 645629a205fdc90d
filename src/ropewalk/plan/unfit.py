"""What a plan that does not fit lacks, and the next thing to change: the smallest change of the recipe that fits.

Changes are tried in this order: settings that save memory are left open; sequences one at a time; the exchange is left
open; more ranks for each sequence; no replicas; all of these; more ranks. Beside it stands the longest sequence that
fits as the recipe is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ropewalk.core.quantity import format_bytes, format_length
from ropewalk.core.spec import Spec
from ropewalk.plan.choose_cut import fits_somehow
from ropewalk.plan.hardware import Machine
from ropewalk.plan.plan import Plan
from ropewalk.plan.room import USABLE_HOST_MEMORY, USABLE_MEMORY
from ropewalk.recipe.check import check
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.parallel import Parallel
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stretch import stretch_stages
from ropewalk.shape.model_shape import ModelShape

_Keys = TypeVar("_Keys", bound=Spec)
_SOURCE = "plan, docs/plan.md"
_OPEN = ("recompute", "recompute_blocks", "mlp_tile_tokens", "offload", "states", "loss_chunk_tokens")
_MOST_RANKS, _SHORTEST = 64, 1024
"""How many times more ranks are tried, and the shortest sequence that is offered."""


def find_unfit(recipe: Recipe, shape: ModelShape, plans: Sequence[Plan]) -> list[Finding]:
    """An error for each of ``plans`` that does not fit."""
    findings = []
    stretched = list(stretch_stages(recipe, shape))
    for index, (plan, stage, extended) in enumerate(zip(plans, recipe.stages, stretched, strict=False)):
        if not plan.fits:
            lack = describe_lack(plan)
            change = offer_change(recipe, index, stage, extended, plan.machine, base=shape)
            findings.append(Finding("error", f"stages.{index}", f"it does not fit: {lack}; {change}", _SOURCE))
    return findings


def describe_lack(plan: Plan) -> str:
    """Which memory of a rank is too small, with the largest part of its need."""
    memory, machine = plan.memory, plan.machine
    lacks, usable = [], USABLE_MEMORY * machine.memory_bytes
    if memory.peak_bytes > usable or machine.name == "cpu":
        parts = {
            "states": memory.states,
            "gathered weights": memory.gathered,
            "activations": memory.kept,
            "one block": memory.last_block,
            "the loss": memory.loss,
        }
        largest = max(parts.items(), key=lambda part: part[1])
        lacks.append(
            f"a rank needs {format_bytes(memory.peak_bytes)} of the {format_bytes(usable)} that it may use of a "
            f"{machine.name}, most of it for {largest[0]} ({format_bytes(largest[1])})"
        )
    host = USABLE_HOST_MEMORY * machine.host_bytes
    if memory.host > host:
        lacks.append(
            f"a rank needs {format_bytes(memory.host)} of host memory, and its part of what a node may use is "
            f"{format_bytes(host)}"
        )
    return "; ".join(lacks)


def offer_change(
    recipe: Recipe, index: int, stage: Stage, extended: ModelShape, machine: Machine, *, base: ModelShape
) -> str:
    """The next thing to change, in words that can be typed after ``ropewalk check RECIPE``, which accepts them.

    ``base`` is the shape before the first stage, ``extended`` that of the stage.
    """
    offers, errors = [], _list_errors(recipe, base)

    def fits(change: dict[str, Any]) -> bool:
        if not _fits_with(change, recipe.parallel, stage, extended, machine):
            return False
        return _list_errors(_apply_change(recipe, index, change), base) <= errors

    for change in _list_changes(recipe.parallel, stage, machine):
        if fits(change):
            words = [f"stages.{index}.{key}={value}" for key, value in change.items() if key in Stage.model_fields]
            words += [f"parallel.{key}={value}" for key, value in change.items() if key in Parallel.model_fields]
            ranks = change.get("ranks", 0)
            if ranks and machine.node_ranks is not None:
                words.append(f"nodes={-(-ranks // machine.node_ranks)}")
            offers.append("set " + " ".join(words))
            break
    length = stage.context_length
    while length >= 2 * _SHORTEST:
        length //= 2
        if fits({"context_length": length}):
            offers.append(f"set stages.{index}.context_length={format_length(length)}")
            break
    if machine.name == "cpu" and recipe.hardware is None:
        offers.append("name the devices that it is meant for (hardware: h100-sxm x 8)")
    if not offers:
        return "no number of ranks that was tried is enough: take devices with more memory, or train adapters (lora)"
    return ", or ".join(offers)


def _list_errors(recipe: Recipe, base: ModelShape) -> set[str]:
    """The errors of a recipe's rules, which its plan is not among."""
    return {str(finding) for finding in check(recipe, base) if finding.level == "error"}


def _apply_change(recipe: Recipe, index: int, change: dict[str, Any]) -> Recipe:
    stages = list(recipe.stages)
    stages[index] = _change(stages[index], change)
    return recipe.model_copy(update={"parallel": _change(recipe.parallel, change), "stages": tuple(stages)})


def _change(spec: _Keys, change: dict[str, Any]) -> _Keys:
    """``spec`` with those of the new values whose keys it has."""
    kept = {key: value for key, value in change.items() if key in type(spec).model_fields}
    return spec.model_copy(update=kept)


def _list_changes(parallel: Parallel, stage: Stage, machine: Machine) -> Iterator[dict[str, Any]]:
    opened = {key: "auto" for key in _OPEN if getattr(parallel, key) not in ("auto", "8bit")}
    single = {"micro_batch_size": 1} if stage.micro_batch_size > 1 else {}
    unreplicated = {"replicas": 1} if parallel.replicas > 1 else {}
    shared = [
        {"context_parallel": count}
        for count in range(parallel.context_parallel + 1, parallel.ranks + 1)
        if parallel.ranks % count == 0
    ]
    # ``auto`` takes an exchange for which there is room.
    freed = {"exchange": "auto"} if parallel.exchange in ("needed_kv", "all_gather") else {}
    least = opened | single | unreplicated
    changes: list[dict[str, Any]] = [opened, single, freed, *shared, unreplicated]
    for change in changes:
        if change:
            yield change
    for wider in [{}, *shared]:
        yield least | wider
        if freed:
            yield least | freed | wider
    ranks = parallel.ranks
    while machine.name != "cpu" and ranks < _MOST_RANKS * parallel.ranks:
        ranks *= 2
        wider = {"context_parallel": ranks}
        for change in ({}, wider, wider | freed) if freed else ({}, wider):
            yield {"ranks": ranks} | change
            yield {"ranks": ranks} | change | least


def _fits_with(
    change: dict[str, Any], parallel: Parallel, stage: Stage, extended: ModelShape, machine: Machine
) -> bool:
    """Whether a stage fits after ``change``, and can be split so."""
    changed, stage = _change(parallel, change), _change(stage, change)
    context = changed.context_parallel
    if changed.ranks % context or changed.ranks % changed.replicas:
        return False
    if stage.context_length * stage.micro_batch_size % context or stage.step_sequences < changed.ranks // context:
        return False
    if changed.ulysses_degree != "auto" and context % changed.ulysses_degree:
        return False
    if machine.node_ranks is not None:  # ranks of a node share its host memory
        share = min(parallel.ranks, machine.node_ranks) / min(changed.ranks, machine.node_ranks)
        machine = replace(machine, host_bytes=machine.host_bytes * share)
    return fits_somehow(changed, stage, extended, machine=machine)
