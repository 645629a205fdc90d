"""Measured rates of a machine, kept in a file with a digest, which a recipe names as its hardware.

Each rate is the median of several calls with their spread. On a CPU all are by processor time, so that other programs
do not count; on a GPU by the clock.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from ropewalk.core.artifact import write_whole
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.core.strict_json import spell_json
from ropewalk.plan.hardware import HOST_PARAMETERS_PER_SECOND, Machine

HOST_OPTIMIZER = "host optimizer"
_UNITS = {"products": "GFLOP/s", "attention": "GFLOP/s", HOST_OPTIMIZER: "B parameters/s"}  # of all others: GB/s
_SUFFIX = re.compile(r".+\.json", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rate:
    """FLOPs, bytes or parameters a second of one rank while all do the same; ``spread`` is (most - least) / median."""

    median: float
    spread: float
    calls: int

    @classmethod
    def of(cls, values: list[float]) -> "Rate":
        middle = median(values)
        return cls(middle, (max(values) - min(values)) / middle, len(values))


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured on ``ranks`` ranks of a ``kind`` (``cpu`` or ``cuda``), by the name of each rate.

    The names are ``products PRECISION``, ``attention PRECISION``, ``copy``, ``link`` with two ranks and more, and on a
    GPU ``host`` (copies from its memory) and ``host optimizer`` (parameters that its processors update).
    """

    device: str
    kind: str
    ranks: int
    memory_bytes: float
    host_bytes: float
    rates: Mapping[str, Rate]

    @property
    def digest(self) -> str:
        return digest_value(asdict(self))

    def describe(self) -> str:
        """A line on each rate, for people."""
        lines = [f"{self.device}, {format_count(self.ranks, 'rank')}, digest {self.digest[:12]}"]
        for name, rate in self.rates.items():
            unit = _UNITS.get(name, _UNITS.get(name.partition(" ")[0], "GB/s"))
            told = (
                f"{rate.median / 1e9:>9.3g} {unit} a rank, spread {rate.spread:.0%} over "
                f"{format_count(rate.calls, 'call')}"
            )
            lines.append(f"  {name:<20} {told}")
        return "\n".join(lines)


def is_calibration(name: str) -> bool:
    """Whether ``hardware: name`` is a file of measured rates, not a device of the table."""
    return _SUFFIX.fullmatch(name) is not None


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the rates with their digest."""
    write_whole(path, spell_json({"digest": calibration.digest, **asdict(calibration)}, indent=1) + "\n")


def read_calibration(path: Path) -> Calibration:
    """Read the rates of a file. Raises UserError where it is not there, or is not what was measured."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        digest = data.pop("digest")
        rates = {name: Rate(**rate) for name, rate in data.pop("rates").items()}
        found = Calibration(rates=rates, **data)
        intact = found.digest == digest
    except OSError as error:
        raise _refuse(path, error.strerror or "it cannot be read") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _refuse(path, "it is no file that `check --calibrate` wrote") from None
    if not intact:
        raise _refuse(path, "its digest is not that of its content")
    return found


def describe_calibrated(calibration: Calibration, *, ranks: int) -> Machine:
    """The machine of one of ``ranks`` ranks.

    Another number of ranks than was measured shares the same processors, or has a GPU of its own each.
    """
    each = calibration.ranks if calibration.kind == "cuda" else None  # GPUs of the node that was measured
    rates = {name: rate.median for name, rate in calibration.rates.items()}
    shared = calibration.ranks / ranks if calibration.kind == "cpu" else 1.0
    narrow, wide = rates["products bfloat16"], rates["products float32"]
    attention = shared * rates["attention bfloat16"]
    copied = shared * rates["copy"]
    return Machine(
        name="cpu" if calibration.kind == "cpu" else calibration.device,
        matmul_flops=shared * narrow,
        attention_forward_flops=attention,
        attention_backward_flops=attention,
        memory_bytes=shared * calibration.memory_bytes,
        link_bytes_per_second=shared * rates.get("link", rates["copy"] / 2),
        source=f"measured, digest {calibration.digest[:12]}",
        host_link_bytes_per_second=rates.get("host", copied / 2),
        host_parameters_per_second=rates[HOST_OPTIMIZER] * calibration.ranks
        if HOST_OPTIMIZER in rates
        else HOST_PARAMETERS_PER_SECOND,
        memory_bytes_per_second=copied,
        host_bytes=calibration.host_bytes * calibration.ranks / (ranks if each is None else min(ranks, each)),
        node_ranks=each,
        float32_share=wide / narrow,
        float32_attention_share=rates["attention float32"] / rates["attention bfloat16"],
    )


def _refuse(path: Path, why: str) -> UserError:
    return UserError(
        "the measured rates cannot be used",
        where=str(path),
        why=why,
        fix=f"measure them: ropewalk check RECIPE --calibrate {path}",
    )
