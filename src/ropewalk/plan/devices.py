"""The table of devices that a plan can be made for: memory, rates, links, host memory and price, each with its source.

The rows are in devices.csv. A row gives what the maker's data sheet promises; plan/hardware.py makes of it what a
training step sustains. The host's memory, the network and the price are those of the usual machine around the device,
so a recipe may give its own (``hardware:``). Prices are the order of public on-demand lists in 2025, which differ
twofold.
"""

import csv
import functools
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from ropewalk.core.error import UserError

Generation = Literal["volta", "ampere", "ada", "hopper", "blackwell", "cdna3"]
Family = Literal["flash2", "flash3", "cudnn", "efficient"]
"""The kernels that attention runs in: FlashAttention 2 and 3, cuDNN's, and torch's memory-efficient one."""


class Device(NamedTuple):
    """One kind of card in its usual machine. Links are in GB/s and direction."""

    name: str
    parts: tuple[str, ...]
    """Words that all occur in the name that the driver shows."""
    generation: Generation
    memory_mib: float
    memory_gb_per_second: float
    bf16_tflops: float
    """Dense products of 16-bit inputs with sums in float32, without sparsity."""
    float32_tflops: float
    """Products of float32 inputs without TF32, which is torch's default."""
    link_gb_per_second: float
    """To the other devices of a node: NVLink, or PCI Express."""
    host_link_gb_per_second: float
    """To pinned host memory: 0.8 of PCI Express, which copies reach."""
    node_devices: int
    network_gb_per_second: float
    """Of one device, between nodes."""
    host_gb: float
    """Host memory of a node."""
    dollars_per_hour: float | None
    """Of one device; None where no public list has one."""
    source: str


ALIASES = {
    "h100": "h100-sxm",
    "h200": "h200-sxm",
    "a100": "a100-sxm-80",
    "a100-80": "a100-sxm-80",
    "a100-40": "a100-sxm-40",
    "a800": "a800-sxm",
    "v100": "v100-sxm-32",
    "rtx-3090": "3090",
    "rtx-4090": "4090",
    "rtx-5090": "5090",
}
"""Short names, as people write them."""

ATTENTION_SHARES: dict[Generation, dict[Family, tuple[float, float]]] = {
    "volta": {"efficient": (0.40, 0.30)},
    "ampere": {"flash2": (205 / 312, 182 / 312)},
    "ada": {"flash2": (0.55, 0.45)},
    "hopper": {"cudnn": (607 / 989, 517 / 989), "flash2": (366 / 989, 330 / 989), "flash3": (680 / 989, 585 / 989)},
    "blackwell": {"cudnn": (0.55, 0.47), "flash2": (0.30, 0.27)},
    "cdna3": {"flash2": (0.35, 0.27)},
}
"""Attention's rates, forward and backward, as shares of the peak in bf16, at 128 dimensions and long documents.

Ampere: ring-flash-attention's README on an A100. Hopper: LongCA-bench on an H100 at 32Ki. There cuDNN stands twice;
these are the rates of torch's operator on dense tiles, which ropewalk calls. Transformer Engine's call on packed tokens
reaches 567 and 485. Blackwell: the paper of FlashAttention 4 sets cuDNN at 1.24 PFLOP/s. The others are assumed like
their neighbours. The first family of a generation is the one that ropewalk calls there.
"""

MATMUL_SHARES: dict[Generation, float] = {
    "volta": 0.7,
    "ampere": 0.8,
    "ada": 0.64,
    "hopper": 0.8 * 790 / 989,
    "blackwell": 0.64,
    "cdna3": 0.5,
}
"""The products' rate in a step as a share of the peak. An H200's largest product was measured at 769 to 798 TFLOP/s, of
which a model's smaller ones get about 0.8; an A100's clock does not fall under load."""


@functools.cache
def read_devices() -> tuple[Device, ...]:
    """All rows of the table; a more specific row stands before a general one."""
    with Path(__file__).with_name("devices.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_parse(row) for row in csv.DictReader(file))


def find_device(name: str) -> Device:
    """The row for ``name`` as a recipe writes it. Raises UserError for a name that the table does not have."""
    key = re.sub(r"[\s_]+", "-", name.strip().lower()).removeprefix("nvidia-")
    found = next((each for each in read_devices() if each.name == ALIASES.get(key, key)), None)
    if found is None:
        names = [each.name for each in read_devices()]
        near = get_close_matches(key, [*names, *ALIASES], n=1, cutoff=0.5)
        raise UserError(
            f"{name!r} is no device of the table",
            where="hardware",
            why=f"the table has {', '.join(names)}",
            fix=(f"did you mean {near[0]}? Or " if near else "") + "give its figures: hardware: {memory: 80Gi, "
            "flops: 400T}",
        )
    return found


def recognise_device(driver_name: str) -> Device | None:
    """The row for the name that a driver shows; None where the table has none. A laptop's card is another chip."""
    words = set(re.split(r"[\s-]+", driver_name.lower()))
    if "laptop" in words:
        return None
    return next((each for each in read_devices() if all(words & {part, f"{part}b"} for part in each.parts)), None)


def find_peak_flops(driver_name: str) -> float:
    """The data sheet's FLOP/s in bfloat16 without sparsity of the device with that driver name; 0 if it is unknown.

    MFU is a share of this peak.
    """
    device = recognise_device(driver_name)
    return 0.0 if device is None else device.bf16_tflops * 1e12


def _parse(row: dict[str, str]) -> Device:
    generation = next(each for each in get_args(Generation) if each == row["generation"])
    numbers = {
        name: float(text) if text else None
        for name, text in row.items()
        if name not in ("name", "parts", "generation", "node_devices", "source")
    }
    return Device(
        name=row["name"],
        parts=tuple(row["parts"].split("+")),
        generation=generation,
        node_devices=int(row["node_devices"]),
        source=row["source"],
        **numbers,  # type: ignore[arg-type]
    )
