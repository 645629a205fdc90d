"""The folder of a model named in a recipe: a path, the packaged tiny base, a shipped shape, or a model of the hub.

This is not in model/, because a check of a recipe needs a config.json but no torch.
"""

import re
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.shape.shipped import describe_shipped, find_near, find_shipped, require_weights

TINY_BASE = Path(__file__).parents[1] / "model" / "tiny_base"
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)@([\w.-]+)")
_WHOLE = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.tiktoken", "*.jinja", "merges.txt", "vocab.txt"]
_WHOLE += ["LICENSE*", "NOTICE*", "USE_POLICY*", "tokenization_*.py"]


def find_model(name: str | Path, *, config_only: bool = False) -> Path:
    """The folder of a model named by a folder, ``tiny-base``, or ``hub_id@revision``.

    A hub model is downloaded into the hub's cache, either whole or only its config.json. Where the config.json is
    enough, a ``hub_id`` without a revision leads to the shape that ropewalk ships, and a line says so. Raises UserError
    where the name is no model, the download fails, or a shipped shape is not enough.
    """
    folder = TINY_BASE if name == "tiny-base" else Path(name)
    if (folder / "config.json").is_file():
        return folder
    hub_name = _HUB_NAME.fullmatch(str(name))
    if hub_name and not folder.exists():
        return _fetch(hub_name[1], hub_name[2], ["config.json"] if config_only else _WHOLE)
    if not config_only:
        require_weights(str(name))
    elif (shipped := find_shipped(str(name))) and not folder.exists():
        say(describe_shipped(str(name)))
        return shipped
    raise UserError(
        f"{name} is not a model",
        where="model",
        why=f"{folder} has no config.json" if folder.exists() else "there is no such folder, and no shipped shape",
        fix=_propose(str(name)),
    )


def _propose(name: str) -> str:
    if name.endswith(".gguf"):
        return f"make a model folder of it first: ropewalk import {name} OUT"
    near = [] if Path(name).exists() else find_near(name.partition("@")[0])
    told = f"; shapes are shipped for {', '.join(near)} ..." if near else ""
    told += "" if Path(name).exists() else " (docs/bases.md lists all)"
    return f"give a model folder, tiny-base, or a hub name with its revision such as org/name@main{told}"


def _fetch(hub_id: str, revision: str, patterns: list[str]) -> Path:
    # The import takes half a second and is needed only for models that are not on this disk.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{hub_id}@{revision} cannot be fetched",
            where="model",
            why=str(error).strip().splitlines()[0],
            fix="check name, revision and network, or give a folder"
            + (f"; check and advise need the shape only: model={hub_id}" if find_shipped(hub_id) else ""),
        ) from None
