"""What a part of the report runs on: a GPU, or in a dry run a CPU with torch's operators for GPUs emulated.

A dry run shows that every line of a part runs. Its times mean nothing. ``tiny`` takes the smallest sizes.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ropewalk.attention import use_kernel


@dataclass(frozen=True, slots=True)
class Target:
    """Where a part runs, and how large its cases are."""

    dry: bool
    tiny: bool

    @property
    def device(self) -> str:
        """``cuda``, or ``cpu`` in a dry run."""
        return "cpu" if self.dry else "cuda"

    def pick(self, real: Any, dry: Any, tiny: Any) -> Any:
        """The size of a case: ``tiny`` wins over ``dry``."""
        return tiny if self.tiny else dry if self.dry else real

    @contextmanager
    def emulate(self, kernel: str = "flash") -> Iterator[None]:
        """In a dry run, attention takes this kernel, whose operators are emulated; on a GPU nothing changes."""
        if not self.dry:
            yield
            return
        from emulated_gpu import emulate  # of the tests, which a GPU needs for its own part only

        with emulate() as emulated, use_kernel(kernel):
            yield
        assert emulated.launches, "attention reached no emulated operator, so this dry run shows nothing"

    def clock(self, run: Callable[[], Any]) -> float:
        """Seconds of one run, until the device has finished it."""
        self.settle()
        begun = time.perf_counter()
        run()
        self.settle()
        return time.perf_counter() - begun

    def settle(self) -> None:
        """Wait until the device has finished."""
        if not self.dry:
            torch.cuda.synchronize()


def read_target() -> Target:
    """The target that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    return Target(given.dry_run, given.tiny)


def tell(what: str, **facts: Any) -> None:
    """Print one line of JSON, at once: what came before a failure or the end of the time is not lost."""
    print(json.dumps({"what": what} | {name: _shorten(value) for name, value in facts.items()}), flush=True)


def _shorten(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
