"""Flipped bits, lost ends, files gone or from another step: refused before any tensor is used, the older one taken."""

import random
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as read_shards

from faults.experiment import Experiment
from faults.ground import DATA, STEPS, Ground
from ropewalk.checkpoint.load import load_weights, newest, read_facts
from ropewalk.core.digest import digest_bytes
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.seed import seed_for

_OLDER, _NEWER = f"step-{STEPS - 3:08}", f"step-{STEPS:08}"


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """Damage a copy of the newer of two checkpoints; unguarded, read it as whoever checks nothing does."""
    whole = RunFolder(ground.straight(parallel=DATA)).checkpoints(0)
    folder = ground.folder / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    damage = _damage(folder, trial, tensors_only=not guarded)
    if not guarded:
        return _read_unchecked(folder / _NEWER, whole / _NEWER)
    if newest(folder) != folder / _OLDER:
        return f"{damage} was not refused"
    try:
        load_weights(folder / _NEWER)
    except UserError:
        return ""
    return f"the weights were read in spite of {damage}"


def _damage(folder: Path, trial: str, *, tensors_only: bool) -> str:
    kind, draw = trial.partition("-")[0], random.Random(seed_for("corruption", trial))
    pattern = "*.safetensors" if tensors_only else "*"
    path = draw.choice(sorted((folder / _NEWER).glob(pattern)))
    data = bytearray(path.read_bytes())
    if kind == "flip":
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        return f"a flipped bit at byte {place} of {path.name}"
    if kind == "cut":
        kept = draw.randrange(len(data))
        path.write_bytes(data[:kept])
        return f"{path.name} cut to {kept} bytes"
    if kind == "lost":
        path.unlink()
        return f"the loss of {path.name}"
    shutil.copy(folder / _OLDER / path.name, path)
    return f"{path.name} of another step"


def _read_unchecked(path: Path, whole: Path) -> str:
    shapes = {name: shape for name, shape in read_facts(whole)["tensors"].items() if not name.startswith("rng/")}
    try:
        found = _read(path, shapes)
    except (Exception, CheckpointException):  # the latter is no Exception
        return ""
    return "" if found == _read(whole, shapes) else "other values were loaded, without a word"


def _read(path: Path, shapes: dict[str, Any]) -> dict[str, str]:
    """Digests of all tensors."""
    tensors = {name: torch.zeros(shape, dtype=torch.float32) for name, (_, shape) in shapes.items()}
    read_shards(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return {name: digest_bytes(tensor.numpy().tobytes()) for name, tensor in tensors.items()}


CORRUPTIONS = Experiment(
    name="corruptions",
    promise="refused before any tensor is used, and the older checkpoint taken",
    control="200 flipped bits in tensor files, read without a manifest",
    trials=[
        f"{kind}-{n}" for kind, count in (("flip", 200), ("cut", 60), ("lost", 10), ("swap", 10)) for n in range(count)
    ],
    controls=[f"flip-{number}" for number in range(200)],
    quick=[f"{kind}-{n}" for kind, count in (("flip", 20), ("cut", 6), ("lost", 2), ("swap", 2)) for n in range(count)],
    quick_controls=[f"flip-{number}" for number in range(3)],
    attempt=attempt,
)
