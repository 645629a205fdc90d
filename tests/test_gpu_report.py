"""The report of a GPU's first fifteen minutes runs as a whole on a CPU, and loses nothing where a part fails."""

import ast
import importlib
import inspect
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fork_server import serve_forks
from forked_verb import run_program
from programs import load_program

ROOT = Path(__file__).parents[1]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    return load_program("gpu_report", monkeypatch)


@pytest.mark.timeout(900)
def test_every_part_runs_dry(tmp_path: Path, report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With emulated operators; each part says what it would measure, and none is empty.

    The first part has an interpreter of its own, as all have on a GPU; the others would only import the same again, and
    so would the pytest of the third and the run that the fifth part kills.
    """
    plain = report.run_program

    def run(program: tuple[str, ...], limit_seconds: float) -> tuple[int | None, str]:
        if "gpu.versions" in program:
            return plain(program, limit_seconds)  # type: ignore[no-any-return]
        log = tmp_path / "said"
        log.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            if {"gpu.train_resume", "gpu.real_tests"} & {*program}:
                patch.setattr(sys, "executable", str(python))
            code = run_program(program, log, [ROOT / "src", ROOT / "benchmarks", ROOT / "tests"], limit_seconds)
        return code, log.read_text()

    out = tmp_path / "report.json"
    monkeypatch.setattr(report, "run_program", run)
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--dry-run", "--tiny", "--out", str(out)])
    monkeypatch.chdir(ROOT)
    with serve_forks(tmp_path) as python:
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
    part = report.Part("a part", 6, (("-c", code),))
    found = report.run_part(part, [], 5)
    assert (found["status"], found["lines"]) == (status, [{"what": 1}])
    assert status != "failed" or "no GPU" in found["tail"]
    assert found["seconds"] < 40


def test_ranks_of_a_part_end_with_it(report: Any, tmp_path: Path) -> None:
    """Else they would hold the GPU's memory while the next part is measured."""
    code = "import os, subprocess, sys, pathlib; child = subprocess.Popen(['sleep', '100']); "
    code += f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid)); os._exit(0)"
    assert report.run_part(report.Part("a part", 30, (("-c", code),)), [], 30)["status"] == "passed"
    child, deadline = int((tmp_path / "child").read_text()), time.monotonic() + 60
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    """A process that has ended and that nobody waits for runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_fault_ends_one_part_and_the_file_stands_after_each(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "report.json", []

    def read() -> dict[str, str]:
        parts = json.loads(out.read_text())["parts"] if out.exists() else {}
        return {number: part["status"] for number, part in parts.items()}

    def run_part(part: Any, *_: Any) -> dict[str, Any]:
        seen.append(read())
        return {"title": part.title, "status": "passed" if len(seen) > 1 else "failed", "seconds": 0.0}

    monkeypatch.setattr(report, "run_part", run_part)
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--only", "1,2,3", "--out", str(out)])
    assert report.main() == 1
    assert seen == [{}, {"1": "failed"}, {"1": "failed", "2": "passed"}]
    assert read() == {"1": "failed", "2": "passed", "3": "passed"}
    monkeypatch.setattr(report, "TOTAL_SECONDS", 4.0)
    assert report.main() == 1 and len(seen) == 3
    assert set(read().values()) == {"no time left"}


def test_programs_are_offline(report: Any) -> None:
    code, said = report.run_program(("-c", "import os; print(os.environ.get('HF_HUB_OFFLINE'))"), 20)
    assert (code, said) == (0, "1\n")


def test_carried_wheels_are_installed_where_a_package_is_missing(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pip, without a network."""
    (tmp_path / "absent-1-py3-none-any.whl").touch()
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        asked.append(command)
        return SimpleNamespace(returncode=int(len(asked) > 1), stdout="no ", stderr="room")

    monkeypatch.setattr(report.subprocess, "run", run)
    monkeypatch.setattr(report, "WHEELS", tmp_path)
    assert report.install_wheels() is None and not asked, "all packages are there"
    monkeypatch.setattr(report, "NEEDED", ("absent_package",))
    assert report.install_wheels() is None and report.install_wheels() == "no room"
    assert "--no-index" in asked[0] and asked[0][-1].endswith("absent-1-py3-none-any.whl")


def test_each_call_of_a_part_has_its_arguments() -> None:
    """Also where only a GPU comes to it: no dry run does, and the parts are not type-checked."""
    checked = 0
    for path in sorted((ROOT / "benchmarks" / "gpu").glob("*.py")):
        tree = ast.parse(path.read_text())
        ours = {
            each.asname or each.name: getattr(importlib.import_module(node.module), each.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ropewalk.")
            for each in node.names
            if node.module
        }
        for node in ast.walk(tree):
            function = (
                ours.get(node.func.id) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
            )
            if function is None or not isinstance(node, ast.Call):
                continue
            if any(isinstance(each, ast.Starred) for each in node.args) or any(not each.arg for each in node.keywords):
                continue
            given = {each.arg: None for each in node.keywords if each.arg}
            inspect.signature(function).bind(*node.args, **given)
            checked += 1
    assert checked > 20
