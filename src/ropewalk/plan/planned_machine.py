"""The machine that a recipe's plan is made for: the recipe's `hardware`, else this machine, else an assumed one."""

from dataclasses import replace
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.plan.calibration import describe_calibrated, is_calibration, read_calibration
from ropewalk.plan.cpu_attention import count_measured, scale_rate
from ropewalk.plan.devices import find_device
from ropewalk.plan.gpus import list_gpus
from ropewalk.plan.hardware import Machine, describe_cpu, find_machine, make_machine
from ropewalk.plan.rank_setup import set_up_ranks
from ropewalk.plan.receipt import Rig
from ropewalk.recipe.hardware_keys import Hardware, read_hardware
from ropewalk.recipe.parallel import Parallel
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.model_shape import ModelShape

_LARGE_PARAMETERS = 1e9  # larger models are not trained on a CPU, so the recipe is meant for a GPU
_ASSUMED = "h200-sxm"
_BACKWARD = 0.85
"""Attention's rate in the backward as a share of that in the forward, as in the table."""
_ATTENTION = 0.8
"""Attention's forward rate as a share of the products', as in the table."""


def choose_machine(recipe: Recipe, shape: ModelShape) -> Machine:
    """The device of one rank of ``recipe``, with its part of a node's host memory.

    An H200 is assumed where this machine has no GPU and the recipe asks for one, or leaves it open for a model that is
    too large for a CPU. Raises UserError for a device that the table does not have.
    """
    if recipe.hardware is None:
        return assume_gpu(recipe.parallel, shape, _find_own_machine(recipe.parallel, shape))
    return describe_hardware(read_hardware(recipe.hardware), ranks=recipe.parallel.ranks)


def describe_hardware(hardware: Hardware, *, ranks: int) -> Machine:
    """The device of one of ``ranks`` ranks on nodes of ``hardware``. Raises UserError for an unknown device."""
    if hardware.device is not None and is_calibration(hardware.device):
        return _describe_measured(hardware, Path(hardware.device), ranks=ranks)
    base = make_machine(find_device(hardware.device)) if hardware.device is not None else _make_own(hardware)
    count = hardware.count or base.node_ranks or 1
    if hardware.memory or hardware.flops:
        base = replace(base, name=hardware.device or "hardware", source="figures of the recipe")
    given = {
        "memory_bytes": hardware.memory,
        "matmul_flops": hardware.flops,
        "attention_forward_flops": hardware.attention_flops,
        "attention_backward_flops": hardware.attention_flops and _BACKWARD * hardware.attention_flops,
        "memory_bytes_per_second": hardware.memory_rate,
        "link_bytes_per_second": hardware.link,
        "network_bytes_per_second": hardware.network,
        "host_link_bytes_per_second": hardware.host_link,
        "host_parameters_per_second": hardware.host_optimizer,
        "dollars_per_hour": hardware.price,
    }
    node_bytes = hardware.host_memory or base.host_bytes * (base.node_ranks or 1)
    return replace(
        base,
        node_ranks=count,
        host_bytes=node_bytes / min(ranks, count),
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )


def _describe_measured(hardware: Hardware, path: Path, *, ranks: int) -> Machine:
    """The machine of measured rates, with the price and number of devices that the recipe gives."""
    figures = hardware.model_dump(exclude={"device", "count", "price"}, exclude_none=True)
    if figures:
        raise UserError(
            "hardware has both measured rates and figures of the recipe",
            where=f"hardware: {', '.join(figures)}",
            why=f"{path} holds what was measured",
            fix="leave the figures out, or name a device of the table in place of the file",
        )
    own = describe_calibrated(read_calibration(path), ranks=ranks)
    return replace(own, node_ranks=hardware.count or own.node_ranks, dollars_per_hour=hardware.price)


def count_devices(recipe: Recipe) -> tuple[int, int]:
    """The devices of all nodes that ``recipe`` names, and of one. Raises UserError for an unknown device."""
    assert recipe.hardware is not None
    machine = describe_hardware(read_hardware(recipe.hardware), ranks=1)
    each = machine.node_ranks or 1
    return each * (recipe.nodes or 1), each


def assume_gpu(parallel: Parallel, shape: ModelShape, machine: Machine) -> Machine:
    """``machine``, or an assumed H200 where it is a CPU and the recipe is meant for a GPU."""
    wanted = parallel.device == "cuda" or (parallel.device == "auto" and shape.parameters >= _LARGE_PARAMETERS)
    if machine.name != "cpu" or not wanted:
        return machine
    assumed = describe_hardware(Hardware(device=_ASSUMED), ranks=parallel.ranks)
    return replace(assumed, name=f"{_ASSUMED} (assumed)")


def describe_measured_cpu(rig: Rig, *, context_tokens: int) -> Machine:
    """The CPU of one rank, with the rates that a stage with sequences of ``context_tokens`` measured as it began."""
    machine = describe_cpu(rig.products_flops, ranks=rig.ranks, source="measured as the stage began")
    attention = rig.attention_flops / scale_rate(count_measured(context_tokens))
    return replace(
        machine,
        attention_forward_flops=attention,
        attention_backward_flops=attention,
        link_bytes_per_second=rig.link_bytes_per_second or machine.link_bytes_per_second,
    )


def device_kind(machine: Machine) -> str:
    """``cpu`` or ``cuda``."""
    return "cpu" if machine.name == "cpu" else "cuda"


def _make_own(hardware: Hardware) -> Machine:
    """A device that only the recipe knows; what it leaves out is like a card of the table with PCI Express 4."""
    assert hardware.memory is not None and hardware.flops is not None
    forward = hardware.attention_flops or _ATTENTION * hardware.flops
    usual = make_machine(find_device("l40s"))
    return replace(
        usual,
        name="hardware",
        memory_bytes=hardware.memory,
        matmul_flops=hardware.flops,
        attention_forward_flops=forward,
        attention_backward_flops=_BACKWARD * forward,
        dollars_per_hour=None,
        source="figures of the recipe",
    )


def _find_own_machine(parallel: Parallel, shape: ModelShape) -> Machine:
    """The device that ranks get on this machine; a recipe for more GPUs than it has is meant for several machines."""
    gpus, setup = list_gpus(), set_up_ranks(parallel, shape)
    few = setup.device == "auto" and setup.small and parallel.ranks > len(gpus)
    return find_machine(ranks=parallel.ranks, gpus=() if few or setup.device == "cpu" else gpus)
