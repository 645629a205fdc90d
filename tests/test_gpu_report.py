"""The report of a GPU's first fifteen minutes runs as a whole on a CPU, and loses nothing where a part fails."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from forked_verb import run_program
from programs import load_program

ROOT = Path(__file__).parents[1]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    return load_program("gpu_report", monkeypatch)


@pytest.mark.timeout(900)
def test_every_part_runs_dry(tmp_path: Path, report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With emulated operators; each part says what it would measure, and none is empty.

    The first part has an interpreter of its own, as all have on a GPU; the others would only import the same again.
    """
    plain = report.run_program

    def run(program: tuple[str, ...], limit_seconds: float) -> tuple[int | None, str]:
        if "gpu.versions" in program:
            return plain(program, limit_seconds)  # type: ignore[no-any-return]
        log = tmp_path / "said"
        log.unlink(missing_ok=True)
        code = run_program(program, log, [ROOT / "src", ROOT / "benchmarks", ROOT / "tests"], limit_seconds)
        return code, log.read_text()

    out = tmp_path / "report.json"
    monkeypatch.setattr(report, "run_program", run)
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--dry-run", "--tiny", "--out", str(out)])
    monkeypatch.chdir(ROOT)
    code = report.main()
    parts = json.loads(out.read_text())["parts"]
    assert {number: part["status"] for number, part in parts.items()} == dict.fromkeys("123456789", "passed"), parts
    assert all(part["lines"] for part in parts.values()) and code == 0, parts
    (told,) = (line for line in parts["5"]["lines"] if line["what"] == "straight run")
    assert told["difference_from_cpu"] > 0, "the emulated operators round like the CPU's kernels: were they called?"


def test_limits_of_the_parts_sum_up(report: Any) -> None:
    assert sum(part.limit_seconds for part in report.PARTS.values()) <= report.TOTAL_SECONDS


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('{\"what\": 1}'); raise SystemExit('no GPU')", "failed"),
        ("import time; print('{\"what\": 1}', flush=True); time.sleep(60)", "out of time"),
    ],
)
def test_a_part_that_fails_keeps_its_lines_and_its_tail(code: str, status: str, report: Any) -> None:
    part = report.Part("a part", 3, (("-c", code),))
    found = report.run_part(part, [], 2)
    assert (found["status"], found["lines"]) == (status, [{"what": 1}])
    assert status != "failed" or "no GPU" in found["tail"]
    assert found["seconds"] < 20


def test_ranks_of_a_part_end_with_it(report: Any, tmp_path: Path) -> None:
    """Else they would hold the GPU's memory while the next part is measured."""
    child = "import time, pathlib, sys; time.sleep(1); pathlib.Path(sys.argv[1]).touch()"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}, {str(tmp_path / 'alive')!r}])"
    assert report.run_part(report.Part("a part", 30, (("-c", code),)), [], 30)["status"] == "passed"
    time.sleep(2)
    assert not (tmp_path / "alive").exists()
