"""Part 2: the rates that bound every other figure: copies on the card, matrix products, copies to the host."""

import torch

from gpu.target import Target, read_target, tell

TURNS = 10
EXPECTED = {"copy": "about 4.3 TB/s on an H200", "product": "770 to 800 TFLOP/s on an H200"}


def measure_copy(target: Target) -> None:
    """Bytes that a copy on the card reads and writes in a second."""
    source = torch.zeros(target.pick(2**31, 2**24, 2**20), dtype=torch.bfloat16, device=target.device)
    copied = torch.empty_like(source)
    copied.copy_(source)
    seconds = min(target.clock(lambda: copied.copy_(source)) for _ in range(TURNS))
    tell(
        "copy",
        terabytes_per_second=2 * source.nbytes / seconds / 1e12,
        gib=source.nbytes / 2**30,
        expected=EXPECTED["copy"],
    )


def measure_products(target: Target) -> None:
    """FLOP/s of square products in bfloat16, several in a row, so that a launch costs nothing."""
    width, repeats = target.pick(8192, 512, 128), target.pick(20, 2, 1)
    left, right = (torch.randn(width, width, device=target.device, dtype=torch.bfloat16) for _ in range(2))
    out = left @ right

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(left, right, out=out)

    seconds = [target.clock(multiply) / repeats for _ in range(TURNS)]
    rates = sorted(2 * width**3 / each / 1e12 for each in seconds)
    tell("product", teraflops=rates[-1], slowest=rates[0], width=width, expected=EXPECTED["product"])


def measure_host_copies(target: Target) -> None:
    """Bytes per second between the card and pinned host memory, which bounds what offloading costs."""
    elements = target.pick(2**29, 2**20, 2**16)
    on_card = torch.zeros(elements, dtype=torch.bfloat16, device=target.device)
    on_host = torch.zeros(elements, dtype=torch.bfloat16, pin_memory=not target.dry)
    ways = {"to the host": lambda: on_host.copy_(on_card), "to the card": lambda: on_card.copy_(on_host)}
    for name, copy in ways.items():
        seconds = min(target.clock(copy) for _ in range(3))
        tell(f"pinned copy {name}", gigabytes_per_second=on_host.nbytes / seconds / 1e9)


def main(target: Target) -> None:
    for measure in (measure_copy, measure_products, measure_host_copies):
        measure(target)


if __name__ == "__main__":
    main(read_target())
