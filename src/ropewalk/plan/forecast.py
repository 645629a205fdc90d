"""The forecast of a run: steps, arithmetic, time, memory and traffic, and the recomputation that it needs to fit.

It is an estimate for choosing, not a promise; docs/plan.md sets it beside published steps. The time is that of
step_time.py. A step without recomputation is up to 1.3 times faster, so the forecast uses none where it fits.
"""

from collections.abc import Sequence
from dataclasses import replace

from ropewalk.plan.choose_cut import cut_stage
from ropewalk.plan.fit import describe_stage_workload, find_fit
from ropewalk.plan.hardware import KNOWN, Machine
from ropewalk.plan.plan import Plan, Split
from ropewalk.plan.planned_machine import assume_gpu, choose_machine
from ropewalk.plan.room import fits
from ropewalk.plan.step_time import estimate_step_time
from ropewalk.plan.workload import Workload, describe_workload, share_work
from ropewalk.recipe.parallel import require_even
from ropewalk.recipe.spec import Parallel, Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stretch import stretch_stages
from ropewalk.shape.model_shape import ModelShape

_PINNING = ("recompute", "recompute_blocks", "mlp_tile_tokens", "offload", "states")
_TOLD = 1.02
"""A pinned setting that costs less than 2 % is not told."""


def forecast(
    shape: ModelShape,
    *,
    context_tokens: int,
    tokens: int,
    step_tokens: int | None = None,
    ranks: int = 1,
    document_tokens: Sequence[int] | None = None,
    split: Split | None = None,
    machine: Machine = KNOWN["h200-sxm"],
) -> Plan:
    """Forecast a run of ``tokens`` tokens in sequences of ``context_tokens`` on ``ranks`` ranks.

    ``step_tokens`` is rounded to whole sequences, as ``Stage.step_sequences`` is; None means one micro-batch for each
    data rank. ``document_tokens`` are the document lengths of a typical sequence; None means a single document.

    Raises UserError if the ranks cannot be split so.
    """
    split = split or Split()
    require_even(ranks, context=split.context_ranks, replicas=split.replicas)
    wave = ranks // split.context_ranks * split.micro_batch_size
    sequences = wave if step_tokens is None else max(1, round(step_tokens / context_tokens))
    load = describe_workload(
        shape, context_tokens, sequences=sequences, document_tokens=document_tokens, lora=split.lora
    )
    return plan_load(load, tokens=tokens, ranks=ranks, split=split, machine=machine)


def plan_load(load: Workload, *, tokens: int, ranks: int, split: Split, machine: Machine) -> Plan:
    """The plan of ``tokens`` tokens in steps of ``load``, with the fastest of the split's savings that fits."""
    savings, memory = find_fit(load, ranks=ranks, split=split, machine=machine)
    share = share_work(load, ranks=ranks, split=split, savings=savings, machine=machine)
    times = estimate_step_time(load.shape, share.work, savings=savings, machine=machine, software=split.software)
    steps = max(1, tokens // load.step_tokens)
    return Plan(
        context_tokens=load.context_tokens,
        tokens=tokens,
        steps=steps,
        step_tokens=load.step_tokens,
        ranks=ranks,
        context_ranks=split.context_ranks,
        flops=load.flops,
        savings=savings,
        memory=memory,
        fits=fits(memory, machine),
        context_bytes=share.context_bytes,
        state_bytes=share.state_bytes,
        work=share.work,
        times=times,
        step_seconds=times.total,
        seconds=steps * times.total,
        tokens_per_second=load.step_tokens / times.total,
        machine=machine,
        cut=split.why,
        held_tokens=split.held_tokens,
    )


def forecast_recipe(recipe: Recipe, shape: ModelShape, *, machine: Machine | None = None) -> list[Plan]:
    """One plan per stage of ``recipe``. Each is an upper bound: sequences of one document each.

    ``machine`` None means what the recipe names, or this machine (planned_machine.py). Ranks that cannot be split and
    stages whose positions do not fit have no plan; recipe/check reports them.
    """
    assert not recipe.open_keys, "plan/settle.py decides them first"
    parallel = recipe.parallel
    if any(parallel.ranks % count for count in (parallel.context_parallel, parallel.replicas)) or (
        parallel.ulysses_degree != "auto" and parallel.context_parallel % parallel.ulysses_degree
    ):
        return []
    machine = machine or choose_machine(recipe, shape)
    return [
        _compare_auto(forecast_stage(parallel, stage, extended, machine=machine), parallel, stage, extended, machine)
        for stage, extended in zip(recipe.stages, stretch_stages(recipe, shape), strict=False)
    ]


def _compare_auto(plan: Plan, parallel: Parallel, stage: Stage, extended: ModelShape, machine: Machine) -> Plan:
    """``plan`` with what its pinned savings cost: the time over that of ``auto``."""
    pinned = [key for key in _PINNING if getattr(parallel, key) not in ("auto", "8bit")]
    if not pinned:
        return plan
    free = parallel.model_copy(update=dict.fromkeys(pinned, "auto"))
    best = forecast_stage(free, stage, extended, machine=machine)
    ratio = plan.step_seconds / best.step_seconds
    if not best.fits or ratio < _TOLD:
        return plan
    words = ", ".join(f"{key}: {getattr(parallel, key)}" for key in pinned)
    return replace(plan, pinned=f"{words} is slower than auto by {ratio:.2f} x; auto: {best.savings.describe()}")


def forecast_stage(parallel: Parallel, stage: Stage, extended: ModelShape, *, machine: Machine) -> Plan:
    """The plan of one stage; ``extended`` is the shape of its model, with its positions. See ``forecast_recipe``."""
    machine = assume_gpu(parallel, extended, machine)
    split = cut_stage(parallel, stage, extended, machine=machine)
    load = describe_stage_workload(stage, extended)
    return plan_load(load, tokens=most_tokens(stage), ranks=parallel.ranks, split=split, machine=machine)


def most_tokens(stage: Stage) -> int:
    """Tokens of a stage that trains to its end."""
    return stage.tokens if stage.stop is None else min(stage.tokens, stage.stop.max_steps * stage.step_tokens)
