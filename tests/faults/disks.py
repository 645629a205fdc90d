"""A disk that is full in the middle of a save: a clear error, the older checkpoint stands, and with room it goes on.

The disk is real, a tmpfs of a size that ends the write at another place in each trial; where a mount namespace may not
be made, a limit on the size of files does the same.
"""

import resource
import shutil
from pathlib import Path

from faults.experiment import Experiment
from faults.ground import CONTEXT, Ground, compare, make, train
from ropewalk.checkpoint import save as save_module
from ropewalk.checkpoint.load import find_folder_fault, list_checkpoints
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from small_disk import mount

_SHARES = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.7, 0.8)
_SPARE_BYTES = 24 << 10
"""For rows and folders: an eighth of a checkpoint."""


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """Room for two checkpoints and a share of a third one, then for all."""
    recipe, share = make(parallel=CONTEXT), _SHARES[int(trial.rpartition("-")[2])]
    straight = ground.straight(parallel=CONTEXT)
    (whole,) = list_checkpoints(RunFolder(straight).checkpoints(0))[:1]
    checkpoint_bytes = sum(path.stat().st_size for path in whole.iterdir())
    save_module.require_free = lambda folder, needed_bytes: None  # the forecast would refuse before anything is written
    if not guarded:
        _write_in_place()
    disk = ground.folder / "disk"
    disk.mkdir(exist_ok=True)
    mounted = trial.startswith("disk") and mount(disk, round((2 + share) * checkpoint_bytes) + _SPARE_BYTES)
    run = ground.give_model(_fresh(disk / "run"))
    if not mounted:
        limit_files(round(share * max(path.stat().st_size for path in whole.iterdir())))
    try:
        train(ground, run, recipe)
        return "nobody noticed that the disk was full"
    except UserError as error:
        clear = "No space left" in error.why or "File too large" in error.why
    if mounted:
        mount(disk, 16 * checkpoint_bytes, again=True)
    else:
        limit_files(None)
    torn = [path.name for path in list_checkpoints(RunFolder(run).checkpoints(0)) if find_folder_fault(path)]
    if torn or not clear:
        return f"{torn} are torn" if torn else "the error does not say that the disk is full"
    train(ground, run, recipe)
    return compare(run, straight)


def limit_files(size_bytes: int | None) -> None:
    """No file may grow beyond ``size_bytes``."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size_bytes is None else size_bytes, hard))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _write_in_place() -> None:
    """Write under the final name, with a manifest that is there from the start."""
    plain_prepare = save_module._prepare

    def prepare(work: Path, *, needed_bytes: int) -> str | None:
        refusal = plain_prepare(work, needed_bytes=needed_bytes)
        if work.is_dir():
            target = work.with_name(work.name.removeprefix(".tmp-"))
            work.rename(target)
            work.symlink_to(target.name)
        return refusal

    save_module._prepare = prepare


DISKS = Experiment(
    name="full disk",
    promise="an error that says so, no torn checkpoint under a good name, and with room again the same end to the bit",
    control="the same save written under its final name",
    trials=[f"disk-{number}" for number in range(len(_SHARES))],
    controls=[f"disk-{number}" for number in range(len(_SHARES))],
    quick=["limit-3"],
    quick_controls=["limit-3"],
    attempt=attempt,
)
