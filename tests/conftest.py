"""For every test: the GPUs of this machine are hidden, unless the test is marked ``gpu``; and none is asked by CUDA.

So a test computes the same on every machine, and the test process can fork ranks that use a GPU.
"""

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # libraries that ask torch.cuda.is_available ask the driver


@pytest.fixture(autouse=True)
def _hide_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def _keep_cuda_out() -> Iterator[None]:
    is_initialized = torch.cuda.is_initialized  # the test may put another one there
    yield
    assert not is_initialized(), "the test process uses CUDA: run the test's body with run_ranks"
