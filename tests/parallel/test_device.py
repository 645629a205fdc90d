"""A rank's device is decided once: no thread loses it, no two ranks share it, and no fork spoils it."""

import ast
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from place import Place
from ropewalk import commands
from ropewalk.core.error import UserError
from ropewalk.parallel import device as device_module
from ropewalk.parallel import launch
from ropewalk.parallel.device import count_gpus, rank_device, use_device
from ropewalk.parallel.launch import _agree, run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.plan.gpus import Gpu, list_gpus
from ropewalk.plan.rank_setup import SMALL_PARAMETERS, RankSetup, choose_kind, set_up_ranks
from ropewalk.recipe.parallel import Parallel
from ropewalk.shape.find import find_model
from ropewalk.shape.read import read_shape


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one GPU, by its driver, and a torch that could use it."""
    monkeypatch.setattr(device_module, "list_gpus", lambda: (Gpu("NVIDIA H100"),))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


class ThreadLocalCuda(threading.local):
    """CUDA's current device: one for each thread, 0 in a new one."""

    current = 0


def test_the_mesh_has_one_device_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = ThreadLocalCuda()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(cuda, "current", torch.device(device).index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: cuda.current)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(device_module, "_taken", [])
    device_module.take_device(torch.device("cuda", 3))
    mesh = Place(device=rank_device())
    with ThreadPoolExecutor(1, initializer=use_device, initargs=(mesh.device,)) as ahead:
        seen = ahead.submit(lambda: (mesh.device, rank_device(), torch.cuda.current_device())).result()
    assert seen == (torch.device("cuda", 3), torch.device("cuda", 3), 3) and cuda.current == 3
    with ThreadPoolExecutor(1) as plain:
        assert plain.submit(rank_device).result() == torch.device("cuda", 3), "whatever CUDA says in this thread"


def test_ranks_make_their_mesh_with_the_device_that_they_were_given() -> None:
    def look() -> tuple[bool, str]:
        mesh = make_mesh(2, 2)
        return mesh.device is rank_device(), mesh.device.type

    assert run_ranks(look, 2) == [(True, "cpu"), (True, "cpu")]


@pytest.mark.parametrize(
    ("setup", "ranks", "gpus", "kind", "says"),
    [
        (RankSetup(), 2, 0, "cpu", ""),
        (RankSetup(), 2, 2, "cuda", ""),
        (RankSetup("cpu"), 2, 8, "cpu", ""),
        (RankSetup("cuda"), 8, 8, "cuda", ""),
        (RankSetup(small=True), 2, 1, "cpu", "2 ranks on this machine, which shows 1 GPU: the model is small"),
        (RankSetup(small=True), 1, 1, "cuda", ""),
    ],
)
def test_the_kind_of_device_follows_from_ranks_and_gpus(
    setup: RankSetup, ranks: int, gpus: int, kind: str, says: str
) -> None:
    found, line = choose_kind(setup, ranks=ranks, gpus=gpus)
    assert found == kind and line.startswith(says) and bool(line) == bool(says)


@pytest.mark.parametrize(
    ("setup", "ranks", "gpus", "words"),
    [
        (RankSetup(), 4, 1, r"4 ranks cannot share 1 GPU[\s\S]*parallel\.ranks=1[\s\S]*parallel\.device=cpu"),
        (RankSetup("cuda", small=True), 4, 2, r"4 ranks cannot share 2 GPUs[\s\S]*parallel\.ranks=2"),
        (RankSetup("cuda"), 1, 0, "there is no GPU"),
    ],
)
def test_ranks_without_a_gpu_of_their_own_are_refused(setup: RankSetup, ranks: int, gpus: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose_kind(setup, ranks=ranks, gpus=gpus)


def test_two_ranks_of_a_small_model_run_on_the_cpu_of_a_machine_with_one_gpu(
    one_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_ranks(lambda: make_mesh(2, 2).device.type, 2, setup=RankSetup(small=True)) == ["cpu", "cpu"]
    assert "the model is small, so all ranks run on the CPU" in capsys.readouterr().err
    with pytest.raises(UserError, match="2 ranks cannot share 1 GPU"):
        run_ranks(lambda: None, 2)


def test_the_quickstart_is_small_and_a_real_model_is_not() -> None:
    shape = read_shape(find_model("tiny-base"))
    assert shape.parameters <= SMALL_PARAMETERS < 100_000_000
    asked = RankSetup("cpu", small=True, deterministic=True)
    assert set_up_ranks(Parallel(device="cpu", deterministic=True), shape) == asked


def test_messages_may_take_longer_than_the_longest_sound_step() -> None:
    """The host queues the messages of a whole step ahead, and their time begins there."""
    shape = read_shape(find_model("tiny-base"))

    def ask() -> float:
        group = dist.distributed_c10d._get_default_group()
        return float(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())

    for hang_seconds, seconds in ((None, 600), (60, 600), (1200, 1500)):
        setup = set_up_ranks(Parallel(device="cpu", hang_seconds=hang_seconds), shape)
        assert run_ranks(ask, 1, setup=setup) == [seconds]


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 2), ("", 0), ("1", 1), ("1,0", 2), ("-1", 0), ("0,7,1", 1), ("GPU-3f1c,MIG-77", 2)],
)
def test_cuda_visible_devices_is_heeded(monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int) -> None:
    monkeypatch.setattr(device_module, "list_gpus", lambda: (Gpu("a"), Gpu("b")))
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert count_gpus() == 0, "a torch for CPUs"


def test_counting_gpus_does_not_ask_cuda(monkeypatch: pytest.MonkeyPatch, one_gpu: None) -> None:
    def poison(*_: Any) -> int:
        raise AssertionError("a process that asks this can fork no rank that uses a GPU")

    for name in ("is_available", "device_count", "current_device", "init"):
        monkeypatch.setattr(torch.cuda, name, poison)
    assert count_gpus() == 1 and rank_device() == torch.device("cuda", 0)
    assert run_ranks(lambda: rank_device().type, 2, setup=RankSetup(small=True)) == ["cpu", "cpu"]


def test_no_test_asks_cuda_before_it_runs() -> None:
    """A skip or a parameter that asks is evaluated in the process that forks the ranks of all tests."""
    asks = re.compile(r"cuda\.(is_available|device_count|current_device|get_device_\w+)\(")
    tests = Path(__file__).parents[1]
    found = [
        f"{path.relative_to(tests)}: {line.strip()}"
        for path in sorted(tests.rglob("*.py"))
        for line in path.read_text().splitlines()
        if "skipif" in line and asks.search(line)
    ]
    assert not found


def test_a_fork_after_cuda_was_used_is_refused(monkeypatch: pytest.MonkeyPatch, one_gpu: None) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with monkeypatch.context() as block, pytest.raises(UserError, match="no ranks can be forked for GPUs"):
        block.setattr(launch, "_run_forked", lambda *_: pytest.fail("a rank was forked"))
        run_ranks(lambda: None, 1)
    assert run_ranks(lambda: rank_device().type, 1, setup=RankSetup("cpu")) == ["cpu"], "ranks on the CPU may be"


def test_a_rank_finds_that_cuda_was_asked_before_the_fork(monkeypatch: pytest.MonkeyPatch, one_gpu: None) -> None:
    parent = os.getpid()
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: os.getpid() != parent)  # as CUDA tells the child alone
    with pytest.raises(UserError, match="asked it how many devices"):
        run_ranks(lambda: None, 1)


def test_hosts_agree_on_one_kind() -> None:
    store = torch.distributed.HashStore()
    store.set("kind/1", "cpu")
    assert _agree(store, 0, 2, "cuda") == "cpu"
    store.set("kind/1", "cuda")
    assert _agree(store, 0, 2, "cuda") == "cuda"


class Nvml:
    """The driver's library for two GPUs, the second of which this process may not open."""

    def __init__(self, fails: int = 0) -> None:
        self.fails, self.open = fails, 0

    def nvmlInit_v2(self) -> int:  # noqa: N802 - the library's names
        self.open += 1
        return self.fails

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        return 4 * index

    def nvmlDeviceGetName(self, handle: Any, name: Any, size: int) -> int:  # noqa: N802
        name.value = b"NVIDIA L4"
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802
        memory._obj.total = 24 << 30
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:  # noqa: N802
        major._obj.value, minor._obj.value = 8, 9
        return 0

    def nvmlDeviceGetNumGpuCores(self, handle: Any, cores: Any) -> int:  # noqa: N802
        cores._obj.value = 58 * 128
        return 0


def test_the_driver_is_asked_by_its_library() -> None:
    nvml = Nvml()
    assert list_gpus(load=lambda name: nvml) == (Gpu("NVIDIA L4", 24 << 30, (8, 9), 58),)
    assert nvml.open == 0, "it is closed again"


def test_without_the_library_the_drivers_files_are_read(tmp_path: Path) -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    driver, devices = tmp_path / "gpus", tmp_path / "dev"
    devices.mkdir()
    for minor, model in enumerate(("NVIDIA H200", "NVIDIA A100-SXM4-80GB")):
        (driver / f"0000:0{minor}:00.0").mkdir(parents=True)
        told = f"Model: \t\t {model}\nIRQ:   \t\t 7\nDevice Minor: \t {minor}\n"
        (driver / f"0000:0{minor}:00.0" / "information").write_text(told)
    for load in (absent, lambda name: Nvml(fails=9)):
        assert list_gpus(driver=driver, devices=devices, load=load) == (), "a container that may open neither"
        (devices / "nvidia1").touch()
        assert [gpu.name for gpu in list_gpus(driver=driver, devices=devices, load=load)] == ["NVIDIA A100-SXM4-80GB"]
        (devices / "nvidia1").unlink()


def test_ranks_are_set_up_for_hangs_and_for_lengths_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a rank: what torch's recorder and its allocator read; what the user has set is kept."""
    told: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", told.append)
    monkeypatch.setattr(launch, "take_device", lambda device: None)

    def look(own: dict[str, str]) -> tuple[str, torch.device, list[str]]:
        os.environ.update(own)
        device = launch._set_up_rank("cuda", 5, False)
        assert os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1" and not torch.are_deterministic_algorithms_enabled()
        return os.environ["TORCH_FR_BUFFER_SIZE"], device, told

    device = torch.device("cuda", 5)
    assert run_ranks(look, 1, {}) == [("2000", device, ["expandable_segments:True"])]
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        assert run_ranks(look, 1, {name: "backend:native"})[0][2] == [], "the user's own"


def test_each_command_with_a_recipe_starts_its_ranks_as_the_recipe_asks() -> None:
    calls = 0
    for path in sorted(Path(commands.__path__[0]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "on_ranks":
                calls += 1
                knows = "recipe" in ast.unparse(node) or "*asked" in ast.unparse(node)
                given = any(keyword.arg == "setup" for keyword in node.keywords)
                assert given or not knows, f"{path.name}, line {node.lineno}"
    assert calls >= 12


_IMPORT_ALL = """
import importlib, pkgutil, sys
from ropewalk.commands.on_ranks import on_ranks
assert "torch" not in sys.modules, "a verb that starts no ranks imports no torch"
import torch

def poison(*_):
    raise AssertionError("asks CUDA")

torch.cuda.is_available = torch.cuda.device_count = torch.cuda.current_device = torch.cuda.init = poison

def work():
    before = set(sys.modules)
    import ropewalk.evaluate.evaluate, ropewalk.model.export, ropewalk.model.extend, ropewalk.train.stage
    return sorted(set(sys.modules) - before)

print(*on_ranks(work, 1), "is imported by each rank of each part")
import ropewalk
for module in pkgutil.walk_packages(ropewalk.__path__, "ropewalk."):
    if not module.name.endswith(("__main__", "plain_reload")):  # programs
        importlib.import_module(module.name)
"""


def test_what_ranks_import_is_there_before_the_fork_and_asks_cuda_nothing() -> None:
    """The process that forks the ranks of a verb imports for all of them; then the rest of this package is imported."""
    done = subprocess.run([sys.executable, "-c", _IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "is imported by each rank of each part\n"
