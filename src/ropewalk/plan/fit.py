"""Whether a stage fits, and how: the fastest way to save memory for which the device and the host both have room."""

import math
from dataclasses import replace

from ropewalk.core.quantity import OPEN
from ropewalk.plan.block_memory import ReceivedKeys
from ropewalk.plan.hardware import Machine
from ropewalk.plan.memory import Memory, estimate_memory
from ropewalk.plan.plan import Split
from ropewalk.plan.planned_machine import device_kind
from ropewalk.plan.precision import choose_precision
from ropewalk.plan.room import fits, rank_lack
from ropewalk.plan.savings import Savings, drop_idle_tiles, list_savings
from ropewalk.plan.step_time import StepTime, estimate_step_time
from ropewalk.plan.workload import Workload, describe_workload, share_work
from ropewalk.recipe.offer_ranks import count_own
from ropewalk.recipe.parallel import LOSS_CHUNK_TOKENS, Parallel
from ropewalk.recipe.stage import Stage
from ropewalk.shape.model_shape import ModelShape


def split_stage(parallel: Parallel, stage: Stage, extended: ModelShape, *, machine: Machine) -> Split:
    """How a stage is split by its recipe, with all ways to save memory that the recipe leaves open."""
    on_gpu = machine.name != "cpu"
    narrow = choose_precision(parallel.precision, device=device_kind(machine)) == "bfloat16"
    return Split(
        context_ranks=parallel.context_parallel,
        layout=parallel.layout,
        savings=tuple(list_savings(parallel, extended, host_is_apart=on_gpu)),
        element_bytes=2 if narrow else 4,
        loss_chunk_tokens=parallel.asked_loss_tokens or LOSS_CHUNK_TOKENS[on_gpu],
        micro_batch_size=min(stage.micro_batch_size, count_own(parallel, stage)),
        lora=stage.lora,
        replicas=parallel.replicas,
    )


_ROUNDING = 1e-9


def find_fit(load: Workload, *, ranks: int, split: Split, machine: Machine) -> tuple[Savings, Memory]:
    """The way to save memory with the shortest step of those that fit, or the one that lacks least if none fits."""
    if not split.savings:
        split = replace(split, savings=tuple(list_savings(Parallel(), load.shape, host_is_apart=machine.name != "cpu")))
    found = list_memory(load, ranks=ranks, split=split, machine=machine)
    fitting = [(way, memory) for way, memory in found if fits(memory, machine)]
    if not fitting:
        return min(found, key=lambda each: rank_lack(each[1], machine))
    if len(fitting) == 1:
        return fitting[0]
    steady = steady_machine(machine)
    times = [time_split(load, way, ranks=ranks, split=split, machine=steady).total for way, _ in fitting]
    # Of ways that differ in rounding alone, the simplest: it is the first.
    return next(each for each, time in zip(fitting, times, strict=True) if time <= (1 + _ROUNDING) * min(times))


def list_memory(load: Workload, *, ranks: int, split: Split, machine: Machine) -> list[tuple[Savings, Memory]]:
    """The ways of ``split`` with the memory of one of ``ranks`` ranks; those that come to the same are left out.

    Where the number of recomputed blocks is open, it is the smallest that fits on ``machine``. The way is left out if
    not even all blocks but one fit, or if it fits without any.
    """
    found, without = [], set[Savings]()
    for way in drop_idle_tiles(split.savings, _count_local_tokens(load, split)):
        if way.recompute_blocks != OPEN:
            memory = estimate_split_memory(load, way, ranks=ranks, split=split)
            found.append((way, memory))
            if way.recompute == "none" and fits(memory, machine):
                without.add(way)
        elif _spare_all(way) in without:
            continue
        elif fewest := _find_fewest(load, way, ranks=ranks, split=split, machine=machine):
            found.append(fewest)
    return found


def _spare_all(way: Savings) -> Savings:
    """``way`` without recomputation, so with nothing of blocks on the host."""
    return replace(way, recompute="none", recompute_blocks=None, offload=False, attention_on_host=False)


def _find_fewest(
    load: Workload, way: Savings, *, ranks: int, split: Split, machine: Machine
) -> tuple[Savings, Memory] | None:
    """``way`` with the fewest recomputed blocks that fit, by halving, or None: each block more keeps less."""

    def try_blocks(blocks: int) -> tuple[Savings, Memory] | None:
        tried = replace(way, recompute_blocks=blocks)
        memory = estimate_split_memory(load, tried, ranks=ranks, split=split)
        return (tried, memory) if fits(memory, machine) else None

    least, most = 1 + way.offload, load.shape.layers - 1  # the last recomputed block keeps its input on the device
    best = try_blocks(most) if least <= most else None
    while best is not None and least < most:
        middle = (least + most) // 2
        if found := try_blocks(middle):
            best, most = found, middle
        else:
            least = middle + 1
    return best


def _count_local_tokens(load: Workload, split: Split) -> int:
    return math.ceil(load.context_tokens * split.micro_batch_size / split.context_ranks)


def estimate_split_memory(load: Workload, way: Savings, *, ranks: int, split: Split) -> Memory:
    """The memory of one of ``ranks`` ranks with ``way``."""
    return estimate_memory(
        load.shape,
        _count_local_tokens(load, split),
        ranks=ranks // split.replicas,
        savings=way,
        element_bytes=split.element_bytes,
        loss_chunk_tokens=split.loss_chunk_tokens,
        lora=split.lora,
        received=_count_received(load, split) if split.context_ranks > 1 else None,
    )


def _count_received(load: Workload, split: Split) -> ReceivedKeys:
    """``split.received_tokens``, or what the longest window lets in where no layer is without one.

    Of a sequence of one document a rank has at most two segments, and each sees a window of keys before it.
    """
    windows = [window for window, _ in load.windows if window is not None]
    if not load.windows:
        return ReceivedKeys(0.0)
    if len(windows) < len(load.windows) or split.exchange != "needed_kv":
        received, ring = split.received_tokens, split.exchange == "ring"
    else:
        received, ring = min(split.received_tokens, 2.0 * max(windows) * split.micro_batch_size), False
    return ReceivedKeys(
        received, ring, received if _keeps_received(load, split, received) else 0.0, split.ulysses_degree
    )


def _keeps_received(load: Workload, split: Split, received: float) -> bool:
    """Whether attention keeps received keys for its backward: where no rank receives more than it owns.

    In a ring ``received`` is one of its blocks, so only two ranks do. Otherwise keys are fetched again.
    """
    degree, kv_heads = split.ulysses_degree, load.shape.kv_heads
    heads = math.lcm(kv_heads, degree) / kv_heads  # a rank of a Ulysses group has a degree-th of them, of all tokens
    fetched = received * (split.context_ranks // degree - 1 if split.exchange == "ring" else 1)
    return fetched <= heads * _count_local_tokens(load, split)


def time_split(load: Workload, way: Savings, *, ranks: int, split: Split, machine: Machine) -> StepTime:
    """The step of one of ``ranks`` ranks with ``way``."""
    work = share_work(load, ranks=ranks, split=split, savings=way, machine=machine).work
    return estimate_step_time(load.shape, work, savings=way, machine=machine, software=split.software)


def steady_machine(machine: Machine) -> Machine:
    """``machine``, or usual rates in place of a CPU's measured ones: a run that resumes must choose as it did."""
    if machine.name != "cpu":
        return machine
    return replace(
        machine,
        matmul_flops=_CPU_FLOPS,
        attention_forward_flops=_CPU_FLOPS / 2,
        attention_backward_flops=_CPU_FLOPS / 2,
        memory_bytes_per_second=_CPU_BYTES,
        link_bytes_per_second=_CPU_BYTES,
        float32_share=1.0,
        float32_attention_share=None,
    )


_CPU_FLOPS, _CPU_BYTES = 5e10, 5e9
"""Of a core, near enough to compare ways with each other."""


def describe_stage_workload(stage: Stage, extended: ModelShape) -> Workload:
    """The workload of a stage's step, with one document in each sequence; ``extended`` is the shape of its model."""
    return describe_workload(extended, stage.context_length, sequences=stage.step_sequences, lora=stage.lora)
