"""For every test: the GPUs of this machine are hidden, unless the test is marked ``gpu``; and none is asked by CUDA.

So a test computes the same on every machine, and the test process can fork ranks that use a GPU. Shapes and types of
all arguments are checked (type_checks.py), but not in ``LONG`` tests.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import config

import type_checks

type_checks.install()  # before any test imports this project
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # libraries that ask torch.cuda.is_available ask the driver


LONG = (
    *("commands", "faults", "gpu_on_cpu/test_training.py", "gpu_on_cpu/test_waits.py", "gpu_on_cpu/test_budgets.py"),
    *("corpus/test_malformed.py", "corpus/prepare/test_workers.py", "model/test_whole_models.py", "test_gpu_report.py"),
    *(f"train/test_{name}.py" for name in ("anneal", "compiled", "experts", "lost_checkpoints", "pose", "resume")),
    *(f"train/test_{name}.py" for name in ("spike_guard", "trackers", "wrappers")),
)
"""Tests of whole runs, whose functions other tests call too: with checks they take twice as long."""


@pytest.fixture(autouse=True)
def _spare_type_checks(request: pytest.FixtureRequest) -> Iterator[None]:
    long = request.path.relative_to(Path(__file__).parent).as_posix().startswith(LONG)
    if long:
        config.update("jaxtyping_disable", True)
    yield
    if long:
        config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _hide_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        _start_autograd()


@functools.cache
def _start_autograd() -> None:
    """Lets torch's autograd engine count its devices now, where there is none.

    It counts them once, at the first backward. A tensor without values (FakeTensorMode, which torch.compile uses) puts
    a device for CUDA in place where torch is built for it; an engine that counts it then starts threads, and no forked
    rank can run a backward.
    """
    torch.ones(1, requires_grad=True).sum().backward()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of GPUs come first: after the others this process has counted no device."""
    items.sort(key=lambda item: item.get_closest_marker("gpu") is None)


@pytest.fixture(autouse=True)
def _keep_cuda_out() -> Iterator[None]:
    is_initialized = torch.cuda.is_initialized  # the test may put another one there
    yield
    assert not is_initialized(), "the test process uses CUDA: run the test's body with run_ranks"
