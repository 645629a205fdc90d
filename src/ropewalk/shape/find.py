"""The folder of a model named in a recipe: a path, the packaged tiny base, a shipped shape, or a model of the hub.

This is not in model/, because a check of a recipe needs a config.json but no torch.
"""

import re
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.shape.hub import fetch_model, is_cached
from ropewalk.shape.shipped import find_near, find_shipped, require_weights, tell_shipped

TINY_BASE = Path(__file__).parents[1] / "model" / "tiny_base"
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)@([\w.-]+)")
_WHOLE = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.tiktoken", "*.jinja", "merges.txt", "vocab.txt"]
_WHOLE += ["LICENSE*", "NOTICE*", "USE_POLICY*", "tokenization_*.py"]


def find_model(name: str | Path, *, config_only: bool = False, offline: bool = False) -> Path:
    """The folder of a model named by a folder, ``tiny-base``, or ``hub_id@revision``.

    A hub model is downloaded into the hub's cache, either whole or only its config.json. Where the config.json is
    enough, a ``hub_id`` without a revision leads to the shape that ropewalk ships, and a line says so. ``offline``
    takes what an earlier download left, or else the shipped shape of that name. Raises UserError where the name is no
    model, the download fails, or a shipped shape is not enough.
    """
    folder = TINY_BASE if str(name) == "tiny-base" else Path(name)
    if (folder / "config.json").is_file():
        return folder
    hub_name = _HUB_NAME.fullmatch(str(name))
    if hub_name and not folder.exists():
        if offline and config_only and not is_cached(hub_name[1], hub_name[2]) and find_shipped(hub_name[1]):
            name = hub_name[1]
        else:
            return fetch_model(hub_name[1], hub_name[2], ["config.json"] if config_only else _WHOLE, offline=offline)
    if not config_only:
        require_base(str(name))
    elif (shipped := find_shipped(str(name))) and not folder.exists():
        tell_shipped(str(name))
        return shipped
    raise _refuse(str(name), shapes=not folder.exists())


def require_base(name: str) -> None:
    """Raise UserError where ``name`` leads to no weights: a shipped shape, or nothing. The hub is not asked."""
    folder = TINY_BASE if name == "tiny-base" else Path(name)
    if (folder / "config.json").is_file() or (_HUB_NAME.fullmatch(name) and not folder.exists()):
        return
    require_weights(name)
    raise _refuse(name, shapes=False)


def _refuse(name: str, *, shapes: bool) -> UserError:
    """The error of a name that is no model. With ``shapes`` the asker can use those that ropewalk ships."""
    missing = "there is no such folder, and no shipped shape" if shapes else "there is no such folder"
    return UserError(
        f"{name} is not a model",
        where="model",
        why=f"{name} has no config.json" if Path(name).exists() else missing,
        fix=_propose(name, shapes=shapes),
    )


def _propose(name: str, *, shapes: bool) -> str:
    if name.endswith(".gguf"):
        return f"make a model folder of it first: ropewalk import {name} OUT"
    near = find_near(name.partition("@")[0]) if shapes else []
    told = f"; shapes are shipped for {', '.join(near)} ..." if near else ""
    told += " (docs/bases.md lists all)" if shapes else ""
    return f"give a model folder, tiny-base, or a hub name with its revision such as org/name@main{told}"
