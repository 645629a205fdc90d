"""For every test: the GPUs of this machine are hidden, unless the test is marked ``gpu``; and none is asked by CUDA.

So a test computes the same on every machine, and the test process can fork ranks that use a GPU. Shapes and types of
all arguments are checked (type_checks.py), but not in ``LONG`` tests.
"""

import functools
import gc
import os
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import huge_pages
import type_checks

gc.disable()  # until all is collected: the collector takes a fifth of the time of imports, and finds nothing
type_checks.install()  # before any test imports this project
pytest_plugins = ("forked_workers",)
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # libraries that ask torch.cuda.is_available ask the driver


LONG = (
    *("commands", "faults", "gpu_on_cpu/test_training.py", "gpu_on_cpu/test_waits.py", "gpu_on_cpu/test_budgets.py"),
    *("corpus/test_malformed.py", "corpus/prepare/test_workers.py", "model/test_whole_models.py", "test_gpu_report.py"),
    *(
        f"train/test_{name}.py"
        for name in ("interpolation", "compiled", "experts", "lost_checkpoints", "pose", "resume")
    ),
    *(f"train/test_{name}.py" for name in ("spike_guard", "trackers", "wrappers")),
)
"""Tests of whole runs, whose functions other tests call too: with checks they take twice as long."""


TESTS = Path(__file__).parent
VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
uses_cuda = torch.cuda.is_initialized  # a test may put another one there


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What the module says, in a hook, which costs less than fixtures of 7,900 tests."""
    type_checks.begin_test(checks=not item.path.relative_to(TESTS).as_posix().startswith(LONG))
    _forget_told()
    if item.get_closest_marker("gpu") is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        _start_autograd()
    elif VISIBLE_GPUS is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = VISIBLE_GPUS
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    yield
    assert not uses_cuda(), "the test process uses CUDA: run the test's body with run_ranks"


@pytest.fixture
def forked_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that loads an export as other people's code does is a fork: it need not import transformers again.

    A fresh interpreter runs it in tests/model/test_export.py, with plain transformers and with our loader.
    """
    from forked_verb import run_python

    monkeypatch.setattr("ropewalk.model.export_parity.subprocess", SimpleNamespace(run=run_python))


def _forget_told() -> None:
    """What another test had told once in this process is told again: so each order of the tests passes."""
    from ropewalk.core import progress

    progress._told.clear()


def _tell_apart() -> None:
    """What was told is in memory that forks share: workers are forks of one process, and each forgets at its tests."""
    from ropewalk.core import progress

    progress._told = progress._Told()


@functools.cache
def _start_autograd() -> None:
    """Lets torch's autograd engine count its devices now, where there is none.

    It counts them once, at the first backward. A tensor without values (FakeTensorMode, which torch.compile uses) puts
    a device for CUDA in place where torch is built for it; an engine that counts it then starts threads, and no forked
    rank can run a backward.
    """
    torch.ones(1, requires_grad=True).sum().backward()


def pytest_configure(config: pytest.Config) -> None:
    workers: Any = config.pluginmanager.get_plugin("forked_workers")
    workers.at_start += [type_checks.count_apart, huge_pages.collapse_pages, _tell_apart]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of GPUs come first: after the others this process has counted no device."""
    items.sort(key=lambda item: item.get_closest_marker("gpu") is None)


def pytest_collection_finish() -> None:
    """Makes once what each forked rank would make again: the speed of this CPU, and with a small product a rank's own.

    What is imported and collected stays: neither the collector nor a rank looks through it again.
    """
    assert [name for name in LONG if not (TESTS / name).exists()] == [], "a test of LONG has another name now"
    from ropewalk.parallel import measure_rates
    from ropewalk.plan.hardware import measure_cpu

    measure_cpu()
    measure_rates._WIDTHS["cpu"] = 128
    gc.collect()
    gc.freeze()
    gc.enable()
