"""SIGKILL before every call of a save that touches the disk, on either rank: the old one or the new, never torn.

The calls are seen by Python's profiler (open, write, fsync, rename, unlink ...) in the thread that saves. They are
counted in an undisturbed save first, so the trials are all there are.
"""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as read_shards
from torch.distributed.checkpoint.state_dict_saver import save as write_shards

from faults.experiment import Experiment, isolate
from faults.ground import Ground
from ropewalk.checkpoint.load import load_checkpoint, newest
from ropewalk.checkpoint.saver import Saver
from ropewalk.checkpoint.state import name_tensors
from ropewalk.parallel.launch import RankError, run_ranks
from ropewalk.plan.rank_setup import RankSetup
from small_state import describe, make_state, train

CPU = RankSetup("cpu")
RANKS, STEP = 2, 3
_CONTROL_CALLS = 75
"""Of a save in place, on either rank."""
_CALLS = {
    *("open", "write", "writelines", "flush", "close", "fsync", "truncate", "__exit__"),
    *("mkdir", "rename", "replace", "rmdir", "unlink", "remove", "scandir", "stat"),
}


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """Two checkpoints stand; the save of the third, which removes the first, is killed; then one looks, and saves."""
    rank, at = map(int, trial.split("-"))
    folder = ground.folder / "saves" / ("guarded" if guarded else "control")
    shutil.rmtree(folder, ignore_errors=True)
    save_some(folder, steps=(STEP - 2, STEP - 1) if guarded else (STEP - 1,))
    try:
        run_ranks(_save_and_count if guarded else _overwrite_and_count, RANKS, folder, rank, at, setup=CPU)
    except RankError as error:
        assert "SIGKILL" in str(error), error
    if not guarded:
        return run_ranks(_judge_overwritten, RANKS, folder / f"step-{STEP - 1:08}", setup=CPU)[0]
    return run_ranks(_look_and_save, RANKS, folder, setup=CPU)[0]


def list_calls(ground: Ground) -> list[str]:
    """A trial for each call of each rank, and so "rank-call"."""
    folder = ground.folder / "saves" / "counted"
    shutil.rmtree(folder, ignore_errors=True)
    counts = isolate(_count_calls, folder)
    return [f"{rank}-{at}" for rank, calls in enumerate(counts) for at in range(calls)]


def _count_calls(folder: Path) -> list[int]:
    save_some(folder, steps=(STEP - 2, STEP - 1))
    return run_ranks(_save_and_count, RANKS, folder, -1, -1, setup=CPU)


def save_some(folder: Path, *, steps: tuple[int, ...], keep: int = 2) -> None:
    """Checkpoints of these steps of one training."""

    def on_rank() -> None:
        state = make_state(RANKS)
        with Saver(folder, keep=keep) as saver:
            for step in steps:
                state = train(state, step - state.step)
                saver.begin(state)
                saver.finish()

    run_ranks(on_rank, RANKS, setup=CPU)


def _watch_calls(rank: int, at: int) -> Callable[[], int]:
    """In threads that start from now on, count the calls, and die before number ``at`` on ``rank``."""
    seen = 0

    def look(frame: FrameType, event: str, what: Any) -> None:
        nonlocal seen
        if event == "c_call" and getattr(what, "__name__", "") in _CALLS:
            if seen == at and dist.get_rank() == rank:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    threading.setprofile(look)
    return lambda: seen


def _save_and_count(folder: Path, rank: int, at: int) -> int:
    state = train(make_state(RANKS), STEP)
    count = _watch_calls(rank, at)
    with Saver(folder, keep=2) as saver:
        saver.begin(state)
        saver.finish()
    threading.setprofile(None)
    return count()


def _look_and_save(folder: Path) -> str:
    found = newest(folder)
    if found is None:
        return "no checkpoint is left"
    state = load_checkpoint(make_state(RANKS), found)
    if describe(state) != describe_step(state.step):
        return f"{found.name} is torn"
    with Saver(folder, keep=2) as saver:
        saver.begin(train(state, 1))
        saver.finish()
    left = sorted(path.name for path in folder.iterdir())
    wanted = [f"step-{step:08}" for step in (state.step, state.step + 1)]
    return "" if left == wanted else f"after the next save there are {left}"


@cache
def describe_step(step: int) -> dict[str, Any]:
    """Digests of the state at a step that nothing disturbed; every rank calls it."""
    return describe(train(make_state(RANKS), step))


def _overwrite_and_count(folder: Path, rank: int, at: int) -> int:
    """What torch does when a step is saved again: the files are opened under their final names."""
    state = train(make_state(RANKS), STEP)
    count = _watch_calls(rank, at)
    tensors, writer = (
        name_tensors(state),
        HuggingFaceStorageWriter(str(folder / f"step-{STEP - 1:08}"), save_distributed=True),
    )
    thread = threading.Thread(target=write_shards, args=(tensors,), kwargs={"storage_writer": writer})
    thread.start()
    thread.join()
    threading.setprofile(None)
    return count()


def _judge_overwritten(path: Path) -> str:
    """Whether what a reader without a manifest gets is neither the old state nor the new."""
    state = make_state(RANKS)
    try:
        read_shards(name_tensors(state), storage_reader=HuggingFaceStorageReader(str(path)))
    except BaseException as error:
        return f"it cannot be read: {type(error).__name__}"
    got = _digests(describe(state))
    return "" if got in [_digests(describe_step(step)) for step in (STEP - 1, STEP)] else "it is torn, and loads"


def _digests(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name.startswith(("weight/", "exp_avg"))}


SAVES = Experiment(
    name="SIGKILL at every call of a save",
    promise="the newest checkpoint is the old one or the new one, bit for bit, and the next save works and clears up",
    control="the same step saved again in place, as torch's checkpoints are by default",
    trials=list_calls,
    controls=[f"{rank}-{at}" for rank in range(RANKS) for at in range(_CONTROL_CALLS)],
    quick=["0-5", "0-40", "1-3"],
    quick_controls=[],  # which call does harm differs from process to process: make faults does them all
    attempt=attempt,
)
