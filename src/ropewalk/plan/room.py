"""How much of a device's and of the host's memory a run may use, and what a rank lacks of it."""

from ropewalk.core.quantity import format_bytes
from ropewalk.plan.hardware import Machine
from ropewalk.plan.memory import Memory

USABLE_MEMORY = 0.92
"""Share of a device's memory that a run may use; the formulas are 3 to 5 GB too low on a card of 150 GB."""

USABLE_HOST_MEMORY = 0.75
"""Share of a rank's part of the host's memory that a run may use; the rest is for loaders and saves."""


def fits(memory: Memory, machine: Machine) -> bool:
    """Whether the device and the host both have room; for a CPU they are one memory."""
    return measure_lack(memory, machine) <= 1


def measure_lack(memory: Memory, machine: Machine) -> float:
    """The need over the usable memory, of the device or of the host, the larger of both."""
    return max(needed / usable for needed, usable in _list_needs(memory, machine))


def rank_lack(memory: Memory, machine: Machine) -> list[float]:
    """The need over the usable memory, of each memory, the largest first; 1 for one that has enough.

    So of ways that lack the same of one memory, the one that has enough of the other comes first: nobody is told to
    mend what an open setting mends by itself.
    """
    return sorted((max(1.0, needed / usable) for needed, usable in _list_needs(memory, machine)), reverse=True)


def describe_room(memory: Memory, machine: Machine) -> str:
    """``yes`` with the memory of a rank's device, or ``no`` with each memory that is too small and what is needed."""
    places = ("that a rank may use", "of the host that a rank may use")
    lacks = [
        f"it needs {format_bytes(needed)} of the {format_bytes(usable)} {place}"
        for place, (needed, usable) in zip(places, _list_needs(memory, machine), strict=False)
        if needed > usable
    ]
    return f"no: {' and '.join(lacks)}" if lacks else f"yes, {format_bytes(machine.memory_bytes)} per rank"


def _list_needs(memory: Memory, machine: Machine) -> list[tuple[float, float]]:
    """Needed and usable bytes of the device and of the host; of a CPU, where they are one memory, together."""
    usable = USABLE_MEMORY * machine.memory_bytes
    if machine.name == "cpu":
        return [(memory.peak_bytes + memory.host, usable)]
    return [(memory.peak_bytes, usable), (memory.host, USABLE_HOST_MEMORY * machine.host_bytes)]
