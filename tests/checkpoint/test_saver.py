"""A save in a thread is the save that it would have been at once; what fails in it is raised on every rank."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ropewalk.checkpoint import save as save_module
from ropewalk.checkpoint import saver as saver_module
from ropewalk.checkpoint.load import list_checkpoints, load_checkpoint, newest
from ropewalk.checkpoint.save import save_checkpoint
from ropewalk.checkpoint.saver import Saver
from ropewalk.core.error import UserError
from ropewalk.parallel import verify_folder
from ropewalk.parallel.launch import run_ranks
from small_state import describe, make_state, train

_trained = threading.Event()
"""In a rank: set when it has taken the steps beside which a save waits."""


def save_while_training(folder: Path) -> tuple[dict[str, Any], bool]:
    state = train(make_state(2), 3)
    asked = describe(state)
    with Saver(folder, keep=2) as saver:
        saver.begin(state)
        state = train(state, 3)
        published = bool(list_checkpoints(folder))
        _trained.set()
        saver.begin(state)  # waits for the first
        saver.finish()
        saver.finish()
    return asked, published


def load_step(folder: Path, step: int) -> dict[str, Any]:
    return describe(load_checkpoint(make_state(2), folder / f"step-{step:08}"))


def test_steps_taken_meanwhile_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = save_module.write_snapshot

    def write_late(*args: Any, **settings: Any) -> Path:
        assert _trained.wait(60)
        return plain(*args, **settings)

    monkeypatch.setattr(saver_module, "write_snapshot", write_late)
    (asked, published), _ = run_ranks(save_while_training, 2, tmp_path)
    assert not published, "training has gone on beside it"
    assert run_ranks(load_step, 2, tmp_path, 3) == [asked] * 2
    assert run_ranks(load_step, 2, tmp_path, 6)[0]["step"] == 6


def fail_on_one(folder: Path) -> list[str]:
    state, told = train(make_state(2), 1), []
    with Saver(folder, keep=2) as saver:
        saver.begin(state)
        saver.finish()
        if dist.get_rank() == 1:
            save_module._seal_shards = lambda work: ({}, "the disk of rank 1 is gone")
        saver.begin(train(state, 1))
        while not saver.has_failed:
            time.sleep(0.01)
        try:
            saver.begin(train(state, 2))
        except UserError as error:
            told.append(error.why)
        assert not saver.has_failed, "it was told once"
    return told


def test_a_failure_is_raised_on_every_rank_and_the_older_one_stands(tmp_path: Path) -> None:
    assert run_ranks(fail_on_one, 2, tmp_path) == [["the disk of rank 1 is gone"]] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_fails_on_the_first_rank_alone_is_raised_on_every_rank(tmp_path: Path) -> None:
    """Its small files, and old folders; the other ranks would go on and wait for it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def fail(module: Any, name: str) -> list[str]:
        told, folder = [], tmp_path / name
        with Saver(folder, keep=1) as saver:
            saver.begin(train(make_state(2), 1))
            saver.finish()
            plain = getattr(module, name)
            setattr(module, name, refuse)
            try:
                saver.begin(train(make_state(2), 2))
                saver.finish()
            except UserError as error:
                told.append(error.why)
            setattr(module, name, plain)
        return told

    def fail_everywhere() -> list[list[str]]:
        places = ((saver_module, "note_begun"), (saver_module, "note_saved"), (save_module, "discard"))
        return [fail(*place) for place in places]

    assert run_ranks(fail_everywhere, 2) == [[["[Errno 28] No space left on device"]] * 3] * 2


def test_a_saver_leaves_no_connection_behind(tmp_path: Path) -> None:
    def count_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def count() -> list[int]:
        counts: list[int] = []
        for number in range(3):
            with Saver(tmp_path / str(number), keep=1) as saver:
                saver.begin(make_state(2))
                saver.finish()
            counts.append(count_files())
            deadline = time.monotonic() + 10  # a connection is closed here when the other side's end is seen
            while counts[-1] > counts[0] and time.monotonic() < deadline:
                time.sleep(0.05)
                counts[-1] = count_files()
        return counts

    for first, second, third in run_ranks(count, 2):
        assert first >= second and first >= third


def test_ranks_share_the_reading_of_a_checkpoint_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, read = verify_folder.find_change, list[str]()

    def note(folder: Path, files: Any) -> str | None:
        read.extend(files)
        return plain(folder, files)

    def save_twice() -> list[str]:
        save_checkpoint(make_state(2), tmp_path)
        read.clear()
        save_checkpoint(make_state(2), tmp_path)
        return sorted(read)

    monkeypatch.setattr(verify_folder, "find_change", note)
    mine, theirs = run_ranks(save_twice, 2)
    shards = [f"shard-{number:05}-model-00001-of-00001.safetensors" for number in (1, 2)]
    assert mine == [shards[0], shards[0], "state.json", "state.json"] and theirs == [shards[1], shards[1]]


def test_the_spared_step_stays_beside_the_newest(tmp_path: Path) -> None:
    def save() -> None:
        state = make_state(1)
        with Saver(tmp_path, keep=1, spared_step=2) as saver:
            for _ in range(4):
                state = train(state, 1)
                saver.begin(state)
            saver.finish()

    run_ranks(save, 1)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["4", "2"]


def test_what_a_kill_left_goes(tmp_path: Path) -> None:
    for name in (".tmp-step-00000007", ".trash-step-00000001", ".damaged-step-00000002-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").touch()

    def look() -> None:
        with Saver(tmp_path, keep=1) as saver:
            saver.begin(make_state(1))
            saver.finish()
            assert newest(tmp_path) == tmp_path / "step-00000000"

    run_ranks(look, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".damaged-step-00000002-0", "step-00000000"]


def test_the_thread_has_the_device_of_its_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would use GPU 0, and a context there takes memory from another rank."""
    told: list[tuple[torch.device, str]] = []
    monkeypatch.setattr(
        saver_module, "use_device", lambda device: told.append((device, threading.current_thread().name))
    )

    def save() -> list[tuple[torch.device, str]]:
        with Saver(tmp_path, keep=1) as saver:
            saver.begin(make_state(1))
            saver.finish()
        return told

    assert run_ranks(save, 1) == [[(torch.device("cpu"), "save_0")]]
