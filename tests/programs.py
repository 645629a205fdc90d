"""Import a program of benchmarks/ into a test."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load_program(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program ``name``; its own modules come before modules of the tests that have the same name, such as packs."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for path in Path(__file__).parent.glob("*.py"):
        if (BENCHMARKS / path.name).exists():
            monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return importlib.import_module(name)
