"""A rank that chooses its kernels as on a GPU, on a CPU."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emulated_gpu import EmulatedGPU, emulate
from ropewalk.attention import context_parallel, cudnn_shapes
from ropewalk.attention.choose_kernel import Demand, choose_kernel
from tiny_run import write_corpus, write_model


def _choose(demand: Demand) -> str:
    return choose_kernel(replace(demand, device="cuda", dtype=torch.bfloat16))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedGPU]:
    """The operators take all types, so that results can be compared exactly."""
    monkeypatch.setattr(context_parallel, "choose_kernel", _choose)
    with emulate(any_dtype=True) as emulated:
        yield emulated


@pytest.fixture
def strict_gpu(gpu: EmulatedGPU, monkeypatch: pytest.MonkeyPatch) -> EmulatedGPU:
    """The operators take only 16-bit types, as on a GPU."""
    monkeypatch.setattr(gpu, "any_dtype", False)
    return gpu


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN gets tiles of a test's size."""
    monkeypatch.setattr(cudnn_shapes, "LEAST_TOKENS", 16)
    monkeypatch.setattr(cudnn_shapes, "GRAIN_TOKENS", 4)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a run folder with extended models, a corpus folder)."""
    folder = tmp_path_factory.mktemp("prepared")
    write_model(folder / "run", folder / "tokenizer")
    return folder / "run", write_corpus(folder)
