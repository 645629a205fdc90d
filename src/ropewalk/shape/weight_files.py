"""The files that hold a model's weights, by their names alone.

This is not in model/, because a missing shard must be found before hours of preparing text, without torch.
"""

import json
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises UserError if there is none, or if one of several is missing."""
    if not (folder / INDEX).is_file():
        if (folder / SINGLE).is_file():
            return [folder / SINGLE]
        pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
        raise UserError(
            "the model has no safetensors weights",
            where=str(folder),
            why=f"there are only {', '.join(pickled[:3])}, and a pickle can run code"
            if pickled
            else f"no {SINGLE}, no {INDEX}",
            fix="convert the weights to safetensors, or choose a revision that has them",
        )
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder / INDEX, f"it is not an index of weights: {error!r}") from None
    for name in names:
        if Path(name).name != name:
            raise damaged(folder / INDEX, f"{name} points outside the folder")
        if not (folder / name).is_file():
            raise damaged(folder / name, f"the index has {format_count(len(names), 'file')}, and this one is missing")
    return [folder / name for name in names]


def damaged(path: Path, why: str) -> UserError:
    """The error for a damaged weight file."""
    return UserError("the weights are damaged", where=str(path), why=why, fix="download the model folder again")
