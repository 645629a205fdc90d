"""What a stage does to fit into the memory of its ranks' devices: how it saves memory, and its room for others' keys.

Both come from one plan, so the keys that a batch brings are those that the savings were chosen beside.
"""

from dataclasses import dataclass, replace

from ropewalk.core.progress import say
from ropewalk.core.quantity import format_bytes
from ropewalk.parallel.collective import gather_values, rank_and_ranks, share_from_first
from ropewalk.parallel.device import find_own_machine, rank_device
from ropewalk.plan.forecast import forecast_stage
from ropewalk.plan.savings import Savings, list_savings
from ropewalk.recipe.parallel import Parallel, require_blocks
from ropewalk.recipe.stage import Stage
from ropewalk.shape.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Fit:
    """``held_tokens`` is the most tokens of other ranks whose keys a rank may hold at once; None: any number."""

    savings: Savings
    held_tokens: float | None = None


def fit_device(parallel: Parallel, spec: Stage, shape: ModelShape) -> Fit:
    """Return the memory savings of a stage, and its room for keys. For options that are left open, return the fastest
    ones that fit.

    They must fit, by the plan, into the smallest memory of any rank's device. Every rank must call it: a CPU's speed is
    measured, and all ranks must make the same choice. A line tells where the rates of a device are only an estimate.
    """
    require_blocks(parallel, shape.layers)
    ways, device = list_savings(parallel, shape, host_is_apart=True), rank_device().type
    cut = device == "cuda" and parallel.context_parallel > 1 and parallel.exchange == "auto"
    if len(ways) == 1 and not cut:
        return Fit(ways[0])
    machine = find_own_machine(ranks=parallel.ranks)
    least_bytes = min(gather_values(machine.memory_bytes))
    if machine.generic and rank_and_ranks()[0] == 0:
        say(f"{machine.source}; its memory of {format_bytes(least_bytes)} is its own")
    least_host = min(gather_values(machine.host_bytes))
    real = parallel.model_copy(update={"device": device})
    held = replace(machine, memory_bytes=least_bytes, host_bytes=least_host)
    plan = forecast_stage(real, spec, shape, machine=held)
    return share_from_first(Fit(plan.savings, plan.held_tokens))
