"""A checkpoint is whole or not there: sharded round trips, other numbers of ranks, damage, kills, no pickle."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ropewalk.checkpoint import save as save_module
from ropewalk.checkpoint.load import (
    find_folder_fault,
    list_checkpoints,
    load_checkpoint,
    load_moments,
    load_weights,
    newest,
)
from ropewalk.checkpoint.save import save_checkpoint
from ropewalk.checkpoint.state import TrainState
from ropewalk.core.digest import digest_bytes
from ropewalk.core.error import UserError
from ropewalk.parallel.launch import RankError, run_ranks
from small_state import WIDTH, Small, describe, make_state, train


def train_and_save(folder: Path, ranks: int, steps: int) -> dict[str, Any]:
    state = train(make_state(ranks), steps)
    save_checkpoint(state, folder)
    return describe(state)


def load_newest(folder: Path, ranks: int, more: int = 0) -> dict[str, Any]:
    found = newest(folder)
    assert found is not None
    return describe(train(load_checkpoint(make_state(ranks), found), more))


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Three steps on 2 ranks."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, run_ranks(train_and_save, 2, folder, 2, 3)[0]


@pytest.fixture
def saved(saved_once: tuple[Path, dict[str, Any]], tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of it, to be damaged."""
    shutil.copytree(saved_once[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, saved_once[1]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_saved_on_2_loads_on_any(saved: tuple[Path, dict[str, Any]], ranks: int) -> None:
    folder, before = saved
    assert run_ranks(load_newest, ranks, folder, ranks) == [before] * ranks


@pytest.mark.parametrize("ranks", [1, 2])
def test_saved_by_replicas_loads_without_and_back(tmp_path: Path, ranks: int) -> None:
    def begin() -> dict[str, Any]:
        state = train(make_state(4, replicas=2), 3)
        save_checkpoint(state, tmp_path / "four")
        return describe(state)

    def change() -> dict[str, Any]:
        state = load_checkpoint(make_state(ranks), tmp_path / "four" / "step-00000003")
        save_checkpoint(state, tmp_path / "fewer")
        return describe(state)

    def come_back() -> dict[str, Any]:
        return describe(load_checkpoint(make_state(4, replicas=2), tmp_path / "fewer" / "step-00000003"))

    before = run_ranks(begin, 4, threads=1)
    assert before == [before[0]] * 4, "replicas are alike"
    assert run_ranks(change, ranks, threads=1) == before[:ranks]
    assert run_ranks(come_back, 4, threads=1) == before
    shards = [load_file(path) for path in (tmp_path / "four" / "step-00000003").glob("*.safetensors")]
    written = sum(each.numel() for shard in shards for name, each in shard.items() if name.startswith("weight/"))
    assert written == sum(each.numel() for each in Small().parameters()), "what two hold is written once"


def test_resume_is_bit_identical_with_dropout(saved: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = saved
    straight = run_ranks(lambda: describe(train(make_state(2), 6)), 2)
    assert run_ranks(load_newest, 2, folder, 2, 3) == straight


def test_load_weights_needs_no_ranks(saved: tuple[Path, dict[str, Any]]) -> None:
    folder, before = saved
    weights = load_weights(folder / "step-00000003")
    assert {f"weight/{name}": digest_bytes(value.numpy().tobytes()) for name, value in weights.items()} == {
        name: digest for name, digest in before.items() if name.startswith("weight/")
    }


def test_load_moments_leaves_weights_and_counters(saved: tuple[Path, dict[str, Any]]) -> None:
    folder, before = saved

    def carry() -> dict[str, Any]:
        return describe(load_moments(make_state(1), folder / "step-00000003"))

    after, fresh = run_ranks(carry, 1)[0], run_ranks(lambda: describe(train(make_state(1), 0)), 1)[0]
    moments = [name for name in before if name.startswith("exp_avg") or name.startswith("step/")]
    assert {name: after[name] for name in moments} == {name: before[name] for name in moments}
    assert (after["step"], after["updates"]) == (0, 3)
    assert after["weight/inner.weight"] == fresh.get("weight/inner.weight")


def test_moments_go_on_for_the_weights_that_both_stages_train(tmp_path: Path) -> None:
    """The stage before trained all but one weight, and the next one all but another."""

    def make(frozen: str) -> TrainState:
        state = make_state(1)
        state.model.get_parameter(frozen).requires_grad_(False)
        return state

    def carry() -> tuple[dict[str, Any], dict[str, Any]]:
        before = train(make("inner.bias"), 3)
        save_checkpoint(before, tmp_path)
        after = load_moments(make("head.bias"), tmp_path / "step-00000003")
        return describe(before), describe(train(after, 0))

    before, after = run_ranks(carry, 1)[0]
    assert (after["updates"], after["missed"]) == (3, {"inner.bias": 3})
    assert not any(name.startswith(("exp_avg", "step")) and name.endswith("head.bias") for name in after)
    moments = {name for name in after if name.startswith(("exp_avg", "step/"))}
    shared = {name for name in moments if not name.endswith("inner.bias")}
    assert len(shared) == 3 * 3 and {name: after[name] for name in shared} == {name: before[name] for name in shared}
    zero = digest_bytes(torch.zeros(WIDTH).numpy().tobytes())
    assert after["exp_avg/inner.bias"] == after["exp_avg_sq/inner.bias"] == zero
    assert after["step/inner.bias"] == digest_bytes(torch.zeros(()).numpy().tobytes())


def test_no_pickle(saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, before = saved
    for path in (folder / "step-00000003").iterdir():
        data = path.read_bytes()
        assert path.suffix in {".json", ".safetensors"}
        assert not data.startswith((b"\x80", b"PK"))
        if path.suffix == ".json":
            json.loads(data)
        else:
            json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle is being read or written")

    for module, name in ((torch, "load"), (torch, "save"), (pickle, "load"), (pickle, "dump")):
        monkeypatch.setattr(module, name, refuse)
    assert run_ranks(load_newest, 2, folder, 2) == [before] * 2
    run_ranks(train_and_save, 2, folder / "again", 2, 1)


@pytest.mark.parametrize("name", ["shard-00002-model-00001-of-00001.safetensors", "state.json", "manifest.json"])
def test_any_flipped_bit_is_refused_and_the_older_one_taken(
    saved: tuple[Path, dict[str, Any]], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, before = saved
    later = folder / "step-00000004"
    whole = folder / "step-00000003"
    size = (whole / name).stat().st_size
    for place in range(0, size, max(1, size // 25)):
        shutil.copytree(whole, later)
        data = bytearray((later / name).read_bytes())
        data[place] ^= 1 << (place % 8)
        (later / name).write_bytes(data)
        fault = find_folder_fault(later)
        assert fault is not None, place
        shutil.rmtree(later)
    shutil.copytree(whole, later)
    (later / name).write_bytes((later / name).read_bytes()[:-1])
    assert run_ranks(load_newest, 2, folder, 2) == [before] * 2
    assert "falling back" in capfd.readouterr().err
    with pytest.raises(UserError, match="damaged"):
        load_weights(later)


def test_a_stray_shard_is_refused(saved: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = saved
    path = folder / "step-00000003"
    shutil.copy(path / "shard-00001-model-00001-of-00001.safetensors", path / "shard-00009.safetensors")
    assert "not in its manifest" in str(find_folder_fault(path))
    assert newest(folder) is None


def train_save_and_die(folder: Path, place: str) -> None:
    state = train(make_state(2), 3)
    save_checkpoint(state, folder)
    state = train(state, 1)
    original: Callable[..., Any] = getattr(save_module, place)

    def die(*args: Any, **settings: Any) -> Any:
        if place == "publish":
            os.kill(os.getpid(), signal.SIGKILL)
        original(*args, **settings)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(save_module, place, die)
    save_checkpoint(state, folder)


@pytest.mark.parametrize("place", ["_prepare", "publish"])
def test_a_kill_while_saving_leaves_the_older_one(tmp_path: Path, place: str) -> None:
    with pytest.raises(RankError, match="SIGKILL"):
        run_ranks(train_save_and_die, 2, tmp_path, place)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003"]
    assert run_ranks(load_newest, 2, tmp_path, 2)[0]["step"] == 3
    assert run_ranks(train_and_save, 2, tmp_path, 2, 4)[0]["step"] == 4, "the torn work folder is in nobody's way"
    assert not list(tmp_path.glob(".tmp-*"))


def test_never_overwritten_but_a_damaged_one_makes_way(saved: tuple[Path, dict[str, Any]]) -> None:
    folder, before = saved
    path = folder / "step-00000003"
    stamp = (path / "manifest.json").stat().st_mtime_ns
    run_ranks(train_and_save, 2, folder, 2, 3)
    assert (path / "manifest.json").stat().st_mtime_ns == stamp
    (path / "state.json").unlink()
    run_ranks(train_and_save, 2, folder, 2, 3)
    assert find_folder_fault(path) is None
    assert (folder / ".damaged-step-00000003-0").is_dir()
    assert run_ranks(load_newest, 2, folder, 2) == [before] * 2


def save_every_step(folder: Path, steps: int, damaged: int) -> None:
    state = make_state(1)
    for _ in range(steps):
        state = train(state, 1)
        save_checkpoint(state, folder, keep=2)
        if state.step == damaged:
            (folder / f"step-{damaged:08}" / "state.json").write_text("{}")


def test_keep_counts_only_what_verifies(tmp_path: Path) -> None:
    run_ranks(save_every_step, 1, tmp_path, 4, 3)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["4", "3", "2"]


def test_other_inputs_and_other_tensors_are_refused(saved: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = saved

    def other_data() -> None:
        load_checkpoint(dataclasses.replace(make_state(1), inputs={"data": "d2"}), folder / "step-00000003")

    def other_model() -> None:
        model = Small()
        model.head = nn.Linear(WIDTH, 2)
        state = TrainState(model, torch.optim.AdamW(model.parameters()), stage=0, inputs={"data": "d1"})
        load_checkpoint(state, folder / "step-00000003")

    with pytest.raises(UserError, match="other inputs"):
        run_ranks(other_data, 1)
    with pytest.raises(UserError, match=r"other tensors[\s\S]*head.bias"):
        run_ranks(other_model, 1)


def test_a_full_disk_is_a_clear_error_and_nothing_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save_module, "publish", refuse)
    with pytest.raises(UserError, match="No space left"):
        run_ranks(train_and_save, 2, tmp_path, 2, 1)
    assert list_checkpoints(tmp_path) == []


def test_names_are_anchored(tmp_path: Path) -> None:
    for name in ("step-00000009.bak", "step-9", ".tmp-step-00000010", "xstep-00000011"):
        (tmp_path / name).mkdir()
    assert list_checkpoints(tmp_path) == [] and newest(tmp_path / "nothing") is None
