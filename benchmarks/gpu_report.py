"""The first fifteen minutes of a GPU: everything that this project has not yet seen on one, in 560 seconds.

    python benchmarks/gpu_report.py [--only 2,6] [--out FILE]          # on one GPU, offline; needs nothing installed
    python benchmarks/gpu_report.py --dry-run [--tiny]                 # on a CPU: that every part runs; no times

Each part is a process with a limit of its own. The file is written after every part, so a part that fails or a machine
that goes away costs no more than its own figures. docs/gpu.md says how to read it and how to carry the packages.
"""

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOTAL_SECONDS = 560.0
TAIL_CHARACTERS = 3000
WHEELS = ROOT / "wheels"
"""Packages that a bare machine lacks, of ``make gpu-wheels``."""
SITE = ROOT / "runs" / "gpu" / "packages"
NEEDED = ("pydantic", "annotated_types", "typing_inspection", "zstandard", "ftfy", "py3langid", "beartype")


@dataclass(frozen=True, slots=True)
class Part:
    """A part: its words, its limit in seconds, and its programs in order, on a GPU and in a dry run."""

    title: str
    limit_seconds: float
    programs: tuple[tuple[str, ...], ...]
    dry_programs: tuple[tuple[str, ...], ...] | None = None
    tiny_programs: tuple[tuple[str, ...], ...] | None = None


def _of_module(name: str) -> tuple[tuple[str, ...], ...]:
    return (("-m", f"gpu.{name}"),)


_ATTENTION, _STEP = "benchmarks/attention.py", "benchmarks/step.py"
PARTS = {
    1: Part("versions and driver", 20, _of_module("versions")),
    2: Part("rates of copies and products", 25, _of_module("rates")),
    3: Part("tests that need a GPU", 120, _of_module("real_tests")),
    4: Part("cuDNN's plans, shared keys, FlashAttention 2 against cuDNN", 45, _of_module("attention_plans")),
    5: Part("training in bfloat16, killed and resumed, against a CPU", 70, _of_module("train_resume")),
    6: Part("two and four layers of 8B width", 140, _of_module("layers")),
    7: Part(
        "attention.py and step.py",
        45,
        (
            (_ATTENTION, "--device", "cuda", "--parts", "one", "--tokens", "8192", "--turns", "3"),
            (
                _STEP,
                "--device",
                "cuda",
                "--parts",
                "packed",
                "--tokens",
                "8192",
                "--dtypes",
                "bfloat16",
                "--turns",
                "3",
            ),
        ),
        (
            (_ATTENTION, "--quick", "--parts", "one", "--turns", "1"),
            (_STEP, "--quick", "--parts", "packed"),
        ),
        (
            (_ATTENTION, "--parts", "one", "--turns", "1", "--tokens", "256", "--dtypes", "float32"),
            (_STEP, "--parts", "packed", "--turns", "1", "--tokens", "256", "--dtypes", "float32"),
        ),
    ),
    8: Part("the profiler's twenty longest kernels", 45, _of_module("top_kernels")),
    9: Part("the longest sequence of a 0.6B model", 50, _of_module("longest")),
}


def choose_programs(part: Part, flags: list[str]) -> tuple[tuple[str, ...], ...]:
    """The part's programs; those that are modules of gpu/ take the flags of the report."""
    if "--dry-run" in flags and part.dry_programs is not None:
        chosen = part.tiny_programs if "--tiny" in flags else part.dry_programs
        assert chosen is not None
        return chosen
    return tuple((*program, *flags) if program[0] == "-m" else program for program in part.programs)


def run_part(part: Part, flags: list[str], limit_seconds: float) -> dict[str, Any]:
    """What a part printed, how it ended and how long it took; its processes are gone when this returns."""
    begun = time.monotonic()
    lines: list[Any] = []
    status, tail = "passed", ""
    for program in choose_programs(part, flags):
        code, said = run_program(program, limit_seconds - (time.monotonic() - begun))
        found, other = split_lines(said)
        lines += found
        if code != 0:
            status = "failed" if code is not None else "out of time"
            tail += other[-TAIL_CHARACTERS:]
    return {
        "title": part.title,
        "status": status,
        "seconds": round(time.monotonic() - begun, 1),
        "limit_seconds": round(limit_seconds),
        "lines": lines,
        **({"tail": tail} if tail else {}),
    }


def install_wheels() -> str | None:
    """Put the carried packages into ``SITE`` if this Python lacks any; what went wrong, None if nothing did."""
    if all(importlib.util.find_spec(name) for name in NEEDED) or not WHEELS.is_dir():
        return None
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade", "--target", str(SITE)]
    wheels = [str(wheel) for wheel in sorted(WHEELS.glob("*.whl"))]
    done = subprocess.run([sys.executable, *install, *wheels], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stdout + done.stderr)[-TAIL_CHARACTERS:]


def run_program(program: tuple[str, ...], limit_seconds: float) -> tuple[int | None, str]:
    """The exit code, None where the time was over, and what it said on both streams."""
    folders = [*(str(ROOT / name) for name in ("src", "benchmarks", "tests")), *([str(SITE)] if SITE.is_dir() else [])]
    path = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, *program], cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        code: int | None
        try:
            code = process.wait(timeout=max(limit_seconds, 1.0))
        except subprocess.TimeoutExpired:
            code = None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its ranks and tests too, which would hold the GPU's memory
        process.wait()
        said.seek(0)
        return code, said.read()


def split_lines(said: str) -> tuple[list[Any], str]:
    """The lines that are JSON objects, and everything else."""
    found, other = [], []
    for line in said.splitlines():
        try:
            value = json.loads(line) if line.startswith("{") else None
        except json.JSONDecodeError:
            value = None
        (other if value is None else found).append(line if value is None else value)
    return found, "\n".join(other)


def write(report: dict[str, Any], out: Path) -> None:
    """Whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(report, indent=1) + "\n")
    part.replace(out)


def find_commit() -> str | None:
    """None where the folder is not a repository."""
    asked = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"numbers of parts, of {min(PARTS)} to {max(PARTS)}")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with emulated operators")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu" / "report.json")
    given = parser.parse_args()
    numbers = [int(each) for each in given.only.split(",")] if given.only else list(PARTS)
    if unknown := [number for number in numbers if number not in PARTS]:
        parser.error(f"no part {unknown[0]}; there are {min(PARTS)} to {max(PARTS)}")
    flags = [*(["--dry-run"] if given.dry_run else []), *(["--tiny"] if given.tiny else [])]
    begun = time.monotonic()
    report: dict[str, Any] = {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": find_commit(),
        "python": platform.python_version(),
        "flags": flags,
        "packages": install_wheels() or "all there",
        "parts": {},
    }
    for number in numbers:
        left = TOTAL_SECONDS - (time.monotonic() - begun)
        part = PARTS[number]
        if left < 5 and not given.dry_run:
            found: dict[str, Any] = {"title": part.title, "status": "no time left"}
        else:  # a CPU that others use too gets more time
            limit = 3 * part.limit_seconds if given.dry_run else min(part.limit_seconds, left)
            found = run_part(part, flags, limit)
        report["parts"][str(number)] = found
        report["seconds"] = round(time.monotonic() - begun, 1)
        write(report, given.out)
        print(f"{number} {part.title}: {found['status']}, {found.get('seconds', 0)} s", flush=True)
    print(given.out)
    return 0 if all(part["status"] == "passed" for part in report["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
