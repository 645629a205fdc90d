"""The hardware that a recipe is planned for, where it is not the machine that runs the check.

A name of the table of devices (plan/devices.py) with the devices of a node, ``h100-sxm x 8``, or figures. Training uses
the devices that it finds; only plans read this.
"""

import re

from pydantic import Field, model_validator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec

_SHORT = re.compile(r"\s*(?P<device>\S.*?)(?:\s+[xX*]\s*(?P<count>\d+))?\s*")


class Hardware(Spec):
    """The devices of one node. Figures replace those of ``device``; without it, ``memory`` and ``flops`` are needed."""

    device: str | None = None
    """A name of docs/plan-devices.md, such as ``h100-sxm``, or a file of measured rates (docs/plan.md)."""
    count: PositiveCount | None = None
    """Devices of a node; the usual number if it is left out."""
    memory: PositiveCount | None = None
    """Bytes of one device, such as ``80Gi``."""
    flops: PositiveCount | None = None
    """FLOP/s of one device's 16-bit products in a step, such as ``400T``."""
    attention_flops: PositiveCount | None = None
    """FLOP/s of attention's forward, the causal half counted; the backward has 0.85 of it."""
    memory_rate: PositiveCount | None = None
    """Bytes per second of the device's memory, such as ``3T``."""
    link: PositiveCount | None = None
    """Bytes per second from one device to another of its node, such as ``400B``."""
    network: PositiveCount | None = None
    """Bytes per second of one device to other nodes."""
    host_link: PositiveCount | None = None
    """Bytes per second between a device and its host's memory."""
    host_optimizer: PositiveCount | None = None
    """Parameters per second that a node's processors update where the optimizer is on the host, such as ``1.2B``."""
    host_memory: PositiveCount | None = None
    """Bytes of a node's host memory, such as ``2T``."""
    price: float | None = Field(default=None, ge=0)
    """Dollars of one device an hour."""

    @model_validator(mode="after")
    def _check_figures(self) -> "Hardware":
        if self.device is None and (self.memory is None or self.flops is None):
            raise ValueError("without a device of the table, give memory and flops: {memory: 80Gi, flops: 400T}")
        return self


def read_hardware(given: str | Hardware) -> Hardware:
    """The hardware that ``h100-sxm x 8`` or a mapping means. Raises ValueError for a text without a device."""
    if isinstance(given, Hardware):
        return given
    found = _SHORT.fullmatch(given)
    if found is None:
        raise ValueError("hardware: give a device and the number of them in a node, such as h100-sxm x 8")
    if found["count"] is not None and not int(found["count"]):
        raise ValueError("hardware: a node has at least one device")
    return Hardware(device=found["device"], count=None if found["count"] is None else int(found["count"]))
