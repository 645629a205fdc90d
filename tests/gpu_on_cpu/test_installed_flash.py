"""FlashAttention 3 or 4 takes the place of torch's own where it is installed, and cuDNN then stands back.

The implementation is a made-up one, registered in torch under the real name and found as a module of the real name.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import attention as torch_attention
from torch.nn.attention import _registry

from attention_cases import PACKS, Case, attend_whole, draw_tensors
from emulated_gpu import EmulatedGPU, emulate
from place import Place
from ropewalk.attention import attend, gpu_kernels
from ropewalk.attention.choose_kernel import Demand, choose_kernel
from ropewalk.attention.gpu_kernels import use_installed_flash
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.train import stage
from ropewalk.train.stage_context import make_context
from tiny_run import make_recipe

DEMAND = Demand("cuda", torch.bfloat16, 128, windowed=False, soft_cap=False)
MODULES = {"FA3": "flash_attn_interface", "FA4": "flash_attn/cute"}


class Handle:
    """What torch keeps of an implementation that is in place."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.gpu = self._stack.enter_context(emulate(any_dtype=True))

    def remove(self) -> None:
        self._stack.close()


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Handle]]:
    """The implementations that were put in place."""
    handles: list[Handle] = []

    def place() -> Handle:
        handles.append(Handle())
        return handles[-1]

    for name in MODULES:
        monkeypatch.setitem(_registry._FLASH_ATTENTION_IMPLS, name, place)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield handles
    for module in [each for each in sys.modules if each.partition(".")[0].startswith("flash_attn")]:
        del sys.modules[module]
    torch_attention.restore_flash_attention_impl(_raise_warn=False)


def install(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = folder / MODULES[name]
    module.mkdir(parents=True)
    for each in (module, *[module.parent] * (module.parent != folder)):
        (each / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("installed", "generation", "chosen"),
    [
        (("FA3",), 9, "FA3"),
        (("FA4",), 10, "FA4"),
        (("FA3", "FA4"), 9, "FA3"),
        (("FA4",), 9, "FA4"),
        (("FA3",), 10, None),
        (("FA3", "FA4"), 8, None),
        ((), 9, None),
    ],
)
def test_the_installed_one_for_this_gpu_is_put_in_place(
    installed: tuple[str, ...],
    generation: int,
    chosen: str | None,
    placed: list[Handle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    for name in installed:
        install(name, tmp_path / name, monkeypatch)
    assert choose_kernel(DEMAND) == "flash"
    assert use_installed_flash(torch.device("cuda")) == chosen
    assert len(placed) == (chosen is not None)
    assert choose_kernel(DEMAND) == ("varlen" if chosen else "flash"), "cuDNN is for FlashAttention 2 only"


def test_attention_runs_it(
    gpu: EmulatedGPU, placed: list[Handle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    install("FA3", tmp_path, monkeypatch)
    assert use_installed_flash(torch.device("cuda")) == "FA3"
    case = Case(PACKS["documents that cross cuts"], "auto", "auto", torch.float64)
    partition = partition_tokens(case.document, ranks=1)
    own = torch.from_numpy(partition.owned(0))
    out = attend(*(each[own] for each in draw_tensors(case)[:3]), partition=partition, group=None)
    torch.testing.assert_close(out, attend_whole(case)[0][own])
    (handle,) = placed
    assert handle.gpu.count("flash") == 1 and not gpu.launches


@pytest.mark.parametrize(
    ("takes_cudnn", "deterministic", "words"),
    [
        (True, False, "attention runs in cuDNN's kernel where tiles have few shapes, else FlashAttention 2"),
        (False, False, "attention runs in FlashAttention 2"),
        (True, True, "attention runs in FlashAttention 2"),
    ],
)
def test_a_stage_tells_its_kernel(
    takes_cudnn: bool,
    deterministic: bool,
    words: str,
    prepared: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Where torch itself would fall from cuDNN to FlashAttention 2, a stage does so too, and says it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(gpu_kernels, "_takes_cudnn", lambda *_: takes_cudnn)
    recipe = make_recipe(micro_batch_size=1)

    def tell() -> str:
        place = Place(SimpleNamespace(get_rank=lambda: 0), device=torch.device("cuda", 0))
        context = replace(make_context(recipe, 0, run=prepared[0]), mesh=place, precision="bfloat16")
        stage._announce(context, open_stage(recipe, 0, open_corpus(prepared[1])))
        return choose_kernel(DEMAND)

    setup = RankSetup("cpu", deterministic=deterministic)
    assert run_ranks(tell, recipe.parallel.ranks, setup=setup)[0] == ("flash" if "cuDNN" in words else "varlen")
    assert f"stage 0: {words}\n" in capfd.readouterr().err


def test_torch_is_asked_whether_it_takes_cudnn() -> None:
    """Of a CPU it says no; that it is asked in the way that it wants is what a CPU can show."""
    assert not gpu_kernels._takes_cudnn(torch.device("cpu"), torch.bfloat16, 64)
