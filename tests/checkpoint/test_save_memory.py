"""What a save takes of the host's memory: one copy of a rank's shards, and on a GPU one wait for all of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from peak_growth import MIB, grow, needs_peak
from ropewalk.checkpoint import save as save_module
from ropewalk.checkpoint import staging
from ropewalk.checkpoint.save import save_checkpoint
from ropewalk.checkpoint.staging import HostStage, make_options
from ropewalk.checkpoint.state import TrainState, name_tensors
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh

LAYERS, WIDTH = 8, 1024


class Blocks(nn.Module):
    """32 MiB of weights in matrices of 4 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))


def make_state(ranks: int) -> TrainState:
    model = Blocks()
    shard_model(model, make_mesh(ranks, 1), precision="float32", whole_bytes=0)
    state = TrainState(model, torch.optim.AdamW(model.parameters()), stage=0, step=1)
    for tensor in name_tensors(state).values():
        tensor.add_(1)  # zeros have no pages yet
    return state


def local_bytes(state: TrainState) -> int:
    return sum(each.to_local().nbytes for each in name_tensors(state).values() if isinstance(each, DTensor))


@needs_peak
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_save_takes_one_copy_of_the_shards(ranks: int, tmp_path: Path) -> None:
    """1.25 times a rank's state and the largest tensor; torch's own writer takes three times."""

    def save() -> tuple[int, int]:
        small = TrainState(nn.Linear(2, 2), torch.optim.AdamW([nn.Parameter(torch.ones(2))]), stage=0, step=9)
        save_checkpoint(small, tmp_path / "warm")  # what a first save loads and starts is not the state's
        state = make_state(ranks)
        return grow(lambda: save_checkpoint(state, tmp_path / "saved")), local_bytes(state)

    largest = 4 * MIB
    for grown, state_bytes in run_ranks(save, ranks, threads=1):
        assert state_bytes == 3 * LAYERS * 4 * MIB // ranks
        assert grown <= 1.25 * state_bytes + largest, (grown / MIB, state_bytes / MIB)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_files_are_those_of_torchs_writer(ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(name: str) -> None:
        torch.manual_seed(0)
        save_checkpoint(make_state(ranks), tmp_path / name)

    run_ranks(save, ranks, "ours", threads=1)
    torchs = lambda folder: HuggingFaceStorageWriter(str(folder), save_distributed=True)  # noqa: E731
    monkeypatch.setattr(save_module, "StreamedWriter", torchs)
    run_ranks(save, ranks, "torchs", threads=1)
    names = [path.name for path in sorted((tmp_path / "ours" / "step-00000001").glob("*.safetensors"))]
    assert len(names) == ranks
    for name in names:
        read = [(tmp_path / side / "step-00000001" / name).read_bytes() for side in ("ours", "torchs")]
        headers = [json.loads(each[8 : 8 + int.from_bytes(each[:8], "little")]) for each in read]
        assert headers[0] == headers[1] and len(read[0]) == len(read[1])  # the library orders its metadata at random
        data = sum(
            entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in headers[0].items() if "/" in name
        )
        assert data > MIB and read[0][-data:] == read[1][-data:]


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Any]]]:
    """A GPU as torch's stager sees it; told are pinned sizes, copies, and waits, in this order."""
    told: dict[str, list[Any]] = {"pinned": [], "order": []}
    copy = torch.UntypedStorage.copy_

    def note_copy(target: Any, source: Any, non_blocking: bool | None = None) -> Any:
        told["order"].append("queued" if non_blocking else "waited for")
        return copy(target, source)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *_: told["order"].append("wait"))
    monkeypatch.setattr(torch.UntypedStorage, "copy_", note_copy)
    pinning = "torch.distributed.checkpoint._state_dict_stager.pin_memory_utils"
    monkeypatch.setattr(f"{pinning}.pin_memory", lambda _, size: told["pinned"].append(size))
    monkeypatch.setattr(f"{pinning}.unpin_memory", lambda _: None)
    yield told


def test_a_gpu_waits_once_for_pinned_copies_of_the_exact_size(pinned: dict[str, list[Any]]) -> None:
    stage = HostStage(torch.device("cuda"))
    tensors: dict[str, Tensor] = {f"weight/{index}": torch.full((100 + index,), index + 0.5) for index in range(5)}
    for change in (0.0, 1.0):
        pinned["order"].clear()
        for tensor in tensors.values():
            tensor += change
        copied = stage.copy(tensors)
        assert pinned["order"] == ["queued"] * 5 + ["wait"]
        assert all(torch.equal(copied[name], tensor) for name, tensor in tensors.items())
    assert pinned["pinned"] == [4 * (100 + index) for index in range(5)], "once for all saves"
    before = {name: tensor.clone() for name, tensor in copied.items()}
    for tensor in tensors.values():
        tensor.zero_()
    assert all(torch.equal(copied[name], tensor) for name, tensor in before.items()), "a copy, not a view"
    stage.close()


def test_a_cpu_pins_nothing() -> None:
    options = make_options(torch.device("cpu"))
    assert not options.use_pinned_memory and not options.use_non_blocking_copy
    assert staging.HostStage(torch.device("cpu")).copy({"weight/a": torch.ones(2)})["weight/a"].tolist() == [1, 1]
