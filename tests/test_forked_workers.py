"""Tests run in workers: each test is reported once, as pytest itself reports it, and what went wrong is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forked_workers import MOST_TESTS, split_items

FILE = """
import os, pathlib, signal, time, warnings, pytest
@pytest.mark.parametrize("n", range(50))
def test_many(n): pass
def test_fails(): print("said"); assert [1] == [2]
def test_skips(): pytest.skip("why")
def test_warns(): warnings.warn("heard", RuntimeWarning)
@pytest.fixture(scope="session")
def shared():
    yield
    pathlib.Path(f"ended-{os.getpid()}").touch()
def test_uses(shared, tmp_path):
    assert not list(pathlib.Path().glob(f"ended-{os.getpid()}"))
    pathlib.Path(f"temporary-{tmp_path.parent.name}").touch()
"""
DIES = """
import os, signal, time
def test_dies():
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3)  # a process of its own holds the pipe open
    os._exit(0)
"""


def run_pytest(folder: Path, *options: str, **files: str) -> tuple[int, str]:
    """The exit code of pytest with two workers, and what it writes."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "forked_workers",
        "--workers=2",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    # No other plugin, which may import much, and a place of its own for temporary folders. Before it ends, pytest
    # deletes those of older sessions; a whole run of our tests leaves so much that this can take a minute.
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_DEBUG_TEMPROOT": str(folder)}
    environment = {**os.environ, **alone, "PYTHONPATH": str(Path(__file__).parent)}
    made = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=60, env=environment)
    return made.returncode, made.stdout + made.stderr


def test_each_test_is_reported_once_with_all_that_pytest_tells(tmp_path: Path) -> None:
    code, told = run_pytest(tmp_path, "-rs", test_one=FILE, test_two=FILE)
    assert code == 1 and "2 failed, 104 passed, 2 skipped, 2 warnings" in told
    assert told.count("E   assert [1] == [2]") == told.count("Captured stdout call") == told.count("\nsaid\n") == 2
    assert "RuntimeWarning: heard" in told and "SKIPPED [1] test_one.py:6: why" in told
    assert 1 <= len(list(tmp_path.glob("ended-*"))) <= 2, "a fixture of a session ends in each worker that made it"
    assert len(list(tmp_path.glob("temporary-*"))) == 1


def test_a_worker_that_dies_is_told_with_its_test(tmp_path: Path) -> None:
    code, told = run_pytest(tmp_path, test_dies=DIES, test_one=FILE)
    assert code == 1 and "a worker died in test_dies.py::test_dies (wait status 9)" in told


def test_a_test_without_a_report_fails_the_session(tmp_path: Path) -> None:
    skips = "def pytest_runtest_protocol(item): return True if item.name == 'test_warns' else None"
    code, told = run_pytest(tmp_path, "--deselect=test_one.py::test_fails", conftest=skips, test_one=FILE)
    assert code == 1 and "1 tests have no report: test_one.py::test_warns" in told and "failed" not in told


def test_no_test_begins_a_piece_after_too_many_failed(tmp_path: Path) -> None:
    files = {f"test_{each}": "def test_it(): assert False" for each in range(30)}
    code, told = run_pytest(tmp_path, "--maxfail=1", **files)
    assert code == 1 and "stopping after" in told and told.count("FAILED") <= 6


def test_pieces_hold_each_test_once_and_those_of_gpus_come_first(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    pieces = split_items(items)
    assert sorted(place for piece in pieces for place in piece) == [*range(len(items))]
    assert all(0 < len(piece) <= MOST_TESTS for piece in pieces)
    assert all(len({items[place].path for place in piece}) == 1 for piece in pieces)
    on_gpu = [items[piece[0]].get_closest_marker("gpu") is not None for piece in pieces]
    assert on_gpu == sorted(on_gpu, reverse=True)
