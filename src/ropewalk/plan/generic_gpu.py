"""The rates of a GPU that is not in the table, from its compute capability and the number of its multiprocessors.

A plan with them is rough, but it is a GPU's: taken for a CPU, a card would be planned with the host's memory and
without a GPU's attention. The memory is the card's own, wherever the driver or torch tells it.
"""

from collections.abc import Mapping

from ropewalk.plan.gpus import Gpu

_CLOCK_FLOPS: Mapping[tuple[int, int], int] = {
    (7, 0): 1024,
    (8, 0): 2048,
    (8, 6): 1024,
    (8, 9): 1024,
    (9, 0): 4096,
    (10, 0): 8192,
    (12, 0): 1024,
}
"""FLOP of a multiprocessor per clock in 16-bit products with sums in float32, by the first capability that has it.

Times multiprocessors and the clock of the data sheet it gives the data sheet's rate: A100 108 x 1.41 GHz x 2048 = 312
TFLOP/s, H100 132 x 1.83 GHz x 4096 = 989, L4 58 x 2.04 GHz x 1024 = 121, B200 148 x 1.85 GHz x 8192 = 2,243.
"""
_GEFORCE_SHARE = 0.5
"""GeForce cards of these generations do float32 sums at half the rate (RTX 4090: 165 TFLOP/s)."""
_CLOCK, _SUSTAINED = 1.6e9, 0.64
"""The clock in Hz under load, and the share of the peak in a training step: that of the H100 in the table."""
_FORWARD, _BACKWARD = 0.8, 0.7
"""Rates of attention as shares of the matrix rate; in the table 0.73 to 0.9."""
_UNTOLD = Gpu("GPU", 16 * 2**30, (8, 0), 60)
"""What is taken where neither driver nor torch tells."""
LINK_BYTES_PER_SECOND = 25e9
"""Of PCI Express 4 with 16 lanes: a card that is not in the table may have no faster link."""


def estimate_rates(gpu: Gpu) -> tuple[float, float, float, float, str]:
    """Return matrix, attention forward and backward rates in FLOP/s, the memory in bytes, and the source in words."""
    capability, processors = gpu.capability or _UNTOLD.capability, gpu.processors or _UNTOLD.processors
    assert capability is not None and processors is not None and _UNTOLD.memory_bytes is not None
    first = max((known for known in _CLOCK_FLOPS if known <= capability), default=(7, 0))
    share = _GEFORCE_SHARE if "geforce" in gpu.name.lower() and capability >= (8, 6) else 1.0
    matmul = _SUSTAINED * share * _CLOCK_FLOPS[first] * processors * _CLOCK
    untold = [
        name
        for name, value in (("memory", gpu.memory_bytes), ("capability", gpu.capability), ("size", gpu.processors))
        if value is None
    ]
    source = (
        f"{gpu.name} is not in the table of devices: generic rates of compute capability {capability[0]}."
        f"{capability[1]} with {processors} multiprocessors"
    )
    if untold:
        source += f"; the driver does not tell its {' and '.join(untold)}, which is assumed"
    return matmul, _FORWARD * matmul, _BACKWARD * matmul, gpu.memory_bytes or _UNTOLD.memory_bytes, source
