"""Whether a stage fits: the first way to save memory for which the device and the host both have room."""

import math

from ropewalk.plan.hardware import Machine
from ropewalk.plan.memory import Memory, estimate_memory
from ropewalk.plan.plan import Split
from ropewalk.plan.planned_machine import assume_gpu
from ropewalk.plan.savings import Savings, list_savings
from ropewalk.recipe.parallel import LOSS_CHUNK_TOKENS, Parallel
from ropewalk.recipe.stage import Stage
from ropewalk.shape.model_shape import ModelShape

USABLE_MEMORY = 0.92
"""Share of a device's memory that a run may use; the formulas are 3 to 5 GB too low on a card of 150 GB."""

USABLE_HOST_MEMORY = 0.75
"""Share of a rank's part of the host's memory that a run may use; the rest is for loaders and saves."""


def split_stage(parallel: Parallel, stage: Stage, extended: ModelShape, *, machine: Machine) -> Split:
    """How a stage is split by its recipe, with all ways to save memory that the recipe leaves open."""
    on_gpu = machine.name != "cpu"
    narrow = parallel.precision == "bfloat16" or (parallel.precision == "auto" and on_gpu)
    return Split(
        context_ranks=parallel.context_parallel,
        layout=parallel.layout,
        savings=tuple(list_savings(parallel, extended, host_is_apart=on_gpu)),
        element_bytes=2 if narrow else 4,
        loss_chunk_tokens=parallel.asked_loss_tokens or LOSS_CHUNK_TOKENS[on_gpu],
        micro_batch_size=stage.micro_batch_size,
        lora=stage.lora,
        replicas=parallel.replicas,
    )


def find_fit(
    shape: ModelShape, context_tokens: int, *, ranks: int, split: Split, machine: Machine
) -> tuple[Savings, Memory]:
    """The fastest way to save memory that fits, or the last way (it saves most) if none fits."""
    for way in split.savings or list_savings(Parallel(), shape, host_is_apart=machine.name != "cpu"):
        memory = estimate_memory(
            shape,
            math.ceil(context_tokens * split.micro_batch_size / split.context_ranks),
            ranks=ranks // split.replicas,
            savings=way,
            element_bytes=split.element_bytes,
            loss_chunk_tokens=split.loss_chunk_tokens,
            lora=split.lora,
        )
        if fits(memory, machine):
            break
    return way, memory


def fit_stage(
    parallel: Parallel, stage: Stage, extended: ModelShape, *, machine: Machine
) -> tuple[Savings, Memory, bool]:
    """The way to save memory of one stage, the memory with it, and whether that fits."""
    machine = assume_gpu(parallel, extended, machine)
    split = split_stage(parallel, stage, extended, machine=machine)
    way, memory = find_fit(extended, stage.context_length, ranks=parallel.ranks, split=split, machine=machine)
    return way, memory, fits(memory, machine)


def fits(memory: Memory, machine: Machine) -> bool:
    """Whether the device and the host both have room; for a CPU they are one memory."""
    if machine.name == "cpu":
        return memory.peak_bytes + memory.host <= USABLE_MEMORY * machine.memory_bytes
    on_device = memory.peak_bytes <= USABLE_MEMORY * machine.memory_bytes
    return on_device and memory.host <= USABLE_HOST_MEMORY * machine.host_bytes
