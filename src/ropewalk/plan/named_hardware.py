"""Whether the hardware that a recipe names agrees with its ranks, and with the devices that train it.

Plans are made for ``hardware`` and ``nodes``; training uses ``parallel.ranks`` ranks on the devices that it finds.
Where the two differ the plan describes another run, so each difference is told.
"""

from collections.abc import Iterator
from pathlib import Path

from ropewalk.core.quantity import format_count
from ropewalk.plan.calibration import is_calibration, read_calibration
from ropewalk.plan.devices import find_device, recognise_device
from ropewalk.plan.hardware import Machine
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.hardware_keys import read_hardware
from ropewalk.recipe.offer_ranks import offer_ranks
from ropewalk.recipe.spec import Recipe

_SOURCE = "plan, docs/plan.md"


def check_hardware(recipe: Recipe, machine: Machine) -> Iterator[Finding]:
    """An error where the nodes have too few devices for the ranks; warnings for what the plan or the run leaves out."""
    ranks, nodes, each = recipe.parallel.ranks, recipe.nodes, machine.node_ranks
    named = None if recipe.hardware is None else read_hardware(recipe.hardware)
    if named is not None and recipe.parallel.device == "cpu":
        message = f"the plan is for {machine.name}, but parallel.device=cpu trains on the CPU"
        yield Finding("warning", "hardware", message, _SOURCE, "leave out one of the two")
    if each is None:
        if nodes is not None:
            message = f"nodes={nodes} changes no plan: how many devices a node has is not known"
            yield Finding("warning", "nodes", message, _SOURCE, "set hardware too, such as hardware='h100-sxm x 8'")
        return
    needed = -(-ranks // each)
    if nodes is not None and needed > nodes:
        fewer = offer_ranks(recipe, nodes * each, nodes=nodes, most=nodes * each)
        message = f"{format_count(ranks, 'rank')} need {needed} nodes of {each} x {machine.name}, not {nodes}"
        fix = f"nodes={needed}" if fewer is None else f"nodes={needed}, or parallel.ranks={fewer}"
        yield Finding("error", "nodes", message, _SOURCE, fix)
    elif (devices := (nodes or needed) * each) > ranks and (nodes or (named and named.count)):
        message = (
            f"{nodes or needed} x {each} x {machine.name} are {devices} devices, of which parallel.ranks={ranks} uses "
            f"{ranks}; the plan is for {ranks}"
        )
        more = offer_ranks(recipe, devices, most=devices)
        fix = f"set parallel.ranks={more}, or name fewer devices" if (more or 0) > ranks else "name fewer devices"
        yield Finding("warning", "nodes" if nodes else "hardware", message, _SOURCE, fix)


def require_hardware(recipe: Recipe) -> None:
    """Raise UserError where the recipe names a device that the table does not have; training does not read it."""
    if recipe.hardware is not None and (device := read_hardware(recipe.hardware).device) is not None:
        read_calibration(Path(device)) if is_calibration(device) else find_device(device)


def compare_hardware(recipe: Recipe, driver_name: str) -> str | None:
    """A sentence where ``driver_name``, the device that trains, is not what the recipe names; else None."""
    if recipe.hardware is None:
        return None
    named, found = read_hardware(recipe.hardware), recognise_device(driver_name)
    if named.device is not None and is_calibration(named.device):
        return None  # it was measured, so it is not told by a name
    if named.device is not None and found is not None and found.name == find_device(named.device).name:
        return None
    name = named.device or "a device by its figures"
    return f"the recipe names {name}, for which `ropewalk check` plans; this machine has {driver_name}"
