"""Take each fix of the work for GPUs out of the sources, one at a time, and see the test fail that is there for it.

    python benchmarks/mutations.py [--lines A1,B8] [--seconds 250] [--check]

mutations.toml lists them: a text that stands once in a file, what takes its place, and a test. Sources and tests are
copied, the text is replaced in the copy, and pytest runs the one test there. The same test must pass in the copy as it
is. What was found is written after each one, and is asked again only where the file, the test or the mutation changed;
so a run that is ended goes on where it was. docs/gpu-tests.md gets the table.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import pytest

from page_tables import write_tables

ROOT = Path(__file__).resolve().parents[1]
LISTED, RESULTS = ROOT / "benchmarks" / "mutations.toml", ROOT / "benchmarks" / "results" / "2026-11-29-mutations.json"
PAGE = ROOT / "docs" / "gpu-tests.md"
COPIED, LINKED = ("src", "tests", "benchmarks"), ("docs", "recipes", "examples", "pyproject.toml", "README.md")
PRELOADED = ("torch.distributed.fsdp", "torch.distributed.tensor", "transformers.models.llama.modeling_llama")
LIMIT_SECONDS = 150.0
"""Of one test; a mutation that makes ranks wait for each other fails by it."""
AT_ONCE = 16
"""Mutations whose tests are first run in the copy as it is, in one process."""
NOTICED, MISSED = "noticed", "MISSED"
_CHECKS = "type_checks.install()"
"""Of tests/conftest.py. Checks of types are off: a mutation must be noticed by its test."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """``old`` stands once in ``file`` and becomes ``new``; then ``test`` must fail. ``what`` says it in words."""

    line: str
    what: str
    file: str
    old: str
    new: str
    test: str

    @property
    def name(self) -> str:
        return f"{self.line}: {self.what}"

    @property
    def test_file(self) -> Path:
        return ROOT / self.test.partition("::")[0]

    def find_fault(self) -> str | None:
        """Why the entry is out of date; None where it is not."""
        path = ROOT / self.file
        found = path.read_text().count(self.old) if path.exists() else 0
        if found != 1:
            return f"{self.name}: the old text stands {found} times in {self.file}"
        function = self.test.partition("::")[2].partition("[")[0]
        if not self.test_file.exists() or f"def {function}(" not in self.test_file.read_text():
            return f"{self.name}: there is no test {self.test}"
        return None

    def digest(self) -> str:
        """Changes with the mutation, the file and the test's file."""
        parts = *asdict(self).values(), (ROOT / self.file).read_text(), self.test_file.read_text()
        return sha256("\0".join(parts).encode()).hexdigest()[:16]


def read_mutations() -> list[Mutation]:
    """All of them, in the order of the file."""
    return [Mutation(**entry) for entry in tomllib.loads(LISTED.read_text())["mutation"]]


def copy_sources(folder: Path) -> None:
    """What a test reads of this repository; what no mutation changes is linked."""
    ignored = shutil.ignore_patterns("__pycache__", "results", "*.pyc")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    (folder / "benchmarks" / "results").symlink_to(ROOT / "benchmarks" / "results")
    settings = folder / "tests" / "conftest.py"
    assert settings.read_text().count(_CHECKS) == 1
    settings.write_text(settings.read_text().replace(_CHECKS, "pass"))
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)


def run_tests(folder: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Whether all of them pass in the copy, and the last words of pytest about a failure.

    A forked process runs them: an interpreter of its own would import torch for four seconds each time.
    """
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            _be_pytest(folder, tests, said.fileno())
        code, deadline = None, time.monotonic() + LIMIT_SECONDS
        try:
            while code is None and time.monotonic() < deadline:
                time.sleep(0.05)
                ended, status = os.waitpid(child, os.WNOHANG)
                code = os.waitstatus_to_exitcode(status) if ended else None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # its ranks too
        if code is None:
            os.waitpid(child, 0)
            return False, f"no end within {LIMIT_SECONDS:.0f} s"
        said.seek(0)
        lines = said.read().splitlines()
    assert code in (0, 1, 2), "\n".join(lines[-30:])  # 4: pytest does not know the test
    words = [line for line in lines if line.startswith(("E ", "FAILED", "ERROR", "/"))]
    return code == 0, (words or lines or [""])[-1][:300]


def _be_pytest(folder: Path, tests: Sequence[str], said: int) -> NoReturn:
    os.setsid()
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(folder)
    sys.path.insert(0, str(folder / "src"))
    code = 3
    try:
        code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=line", *tests])
    finally:
        sys.stdout.flush()
        os._exit(int(code))


def try_mutation(mutation: Mutation, folder: Path, turn: int) -> tuple[str, str]:
    """Whether its test notices it, and how the test said so; the copy is then as it was."""
    path = folder / mutation.file
    plain, stood = path.read_text(), path.stat()
    path.write_text(plain.replace(mutation.old, mutation.new))
    moment = stood.st_mtime + 10 * (turn + 1)  # compiled files are known by whole seconds
    os.utime(path, (moment, moment))
    try:
        passed, words = run_tests(folder, [mutation.test])
    finally:
        path.write_text(plain)
        os.utime(path, (stood.st_atime, stood.st_mtime))
    return (MISSED if passed else NOTICED), words


def measure(mutations: Sequence[Mutation], known: dict[str, Any], seconds: float) -> bool:
    """Fill ``known`` for all of them and write it after each one; False where the time ended first."""
    begun = time.monotonic()
    for package in PRELOADED:  # forked tests need not import it again
        importlib.import_module(package)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_sources(folder)
        for start in range(0, len(mutations), AT_ONCE):
            part = mutations[start : start + AT_ONCE]
            if time.monotonic() - begun > seconds or not find_passing(part, folder, known["passing"]):
                return False
            for turn, mutation in enumerate(part, start=start):
                if time.monotonic() - begun > seconds:
                    return False
                outcome, words = try_mutation(mutation, folder, turn)
                known["found"][mutation.name] = {
                    "outcome": outcome, "said": words.replace(str(folder), ""), "digest": mutation.digest(),
                }  # fmt: skip
                RESULTS.write_text(json.dumps(known, indent=1) + "\n")
                print(f"{outcome:8} {mutation.name}", flush=True)
    return True


def find_passing(mutations: Sequence[Mutation], folder: Path, passing: dict[str, str]) -> bool:
    """Whether the tests pass in the copy as it is; those that have passed on the same files are not run again."""
    asked = {each.test: each.digest() for each in mutations if passing.get(each.name) != each.digest()}
    passed, words = run_tests(folder, list(asked)) if asked else (True, "")
    if passed:
        passing |= {each.name: each.digest() for each in mutations}
    else:
        print(f"a test fails without any mutation: {words}")
    return passed


def tabulate(mutations: Sequence[Mutation], found: dict[str, Any]) -> list[str]:
    """One row for each mutation."""
    lines = ["| part | taken out, or put in its place | where | test | |", "|---|---|---|---|---|"]
    for each in mutations:
        where, test = each.file.removeprefix("src/ropewalk/"), each.test.removeprefix("tests/").replace(".py::", ": ")
        outcome = found.get(each.name, {}).get("outcome", "not tried")
        lines.append(f"| {each.line} | {each.what} | {where} | {test} | {outcome} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", help="parts of the work, such as A1,B8")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no mutation after so many seconds")
    parser.add_argument("--check", action="store_true", help="only look whether the list is up to date")
    given = parser.parse_args()
    every = read_mutations()
    if faults := [fault for mutation in every if (fault := mutation.find_fault())]:
        print("\n".join(faults))
        return 2
    if given.check:
        return 0
    chosen = [each for each in every if given.lines is None or each.line in given.lines.split(",")]
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"found": {}, "passing": {}}
    found = known["found"] = {each.name: known["found"][each.name] for each in every if each.name in known["found"]}
    open_ones = [each for each in chosen if found.get(each.name, {}).get("digest") != each.digest()]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    done = measure(open_ones, known, given.seconds)
    write_tables(PAGE, "\n".join(tabulate(every, found)), "mutations")
    failed = [name for name, each in found.items() if each["outcome"] != NOTICED]
    print(f"{len(every)} mutations, {len(found)} tried, {len(failed)} not noticed", *failed, sep="\n  ")
    return 0 if done and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
