"""Part 3: the tests that need a GPU, with the real kernels; in a dry run they skip and the emulated ones run.

Only files that have such tests are read, because others import packages that a bare machine lacks. What pytest says is
passed on, so that it is in the report if the time ends.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from gpu.target import Target, read_target, tell

TESTS = Path(__file__).parents[2] / "tests"
EMULATED = TESTS / "gpu_on_cpu" / "test_attention.py"
FIRST = "test_gpu_cases.py"
"""Of the marked files the one that matters most, and that compiles nothing."""
TAIL_CHARACTERS = 600


def choose_tests(target: Target) -> list[str]:
    """Arguments of pytest; the emulated operators are tried in a full dry run only, since the test suite has them."""
    files = [path for path in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    marked = [str(path) for path in sorted(files, key=lambda path: path.name != FIRST)]
    if target.dry and not target.tiny:
        return [*marked, str(EMULATED)]
    return ["-m", "gpu", *marked]


def main(target: Target) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "-vv",
            f"--junitxml={report}",
        ]
        command += choose_tests(target)
        done = subprocess.run(command, cwd=TESTS.parent, check=False)
        if not report.exists():
            sys.exit("pytest wrote no report")
        cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = sum(case.find("skipped") is not None for case in cases)
    failed = [(case, fault) for case in cases for fault in (*case.findall("failure"), *case.findall("error"))]
    passed = len(cases) - skipped - len(failed)
    tell("tests", passed=passed, failed=len(failed), skipped=skipped)
    for case, fault in failed:
        tell("failed", test=f"{case.get('classname')}::{case.get('name')}", why=(fault.text or "")[-TAIL_CHARACTERS:])
    return done.returncode or int(not passed and not target.dry)  # all skipped: no test saw the GPU


if __name__ == "__main__":
    sys.exit(main(read_target()))
