"""``ropewalk export --push ORG/NAME``: uploads a model folder to the Hugging Face hub, with a model card.

The account is that of ``hf auth login``. A new repository is private unless the user says otherwise. A README.md that
the folder has already is sent as it is; else model_card.py makes one. The manifest stays here: it names paths of this
machine.
"""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ropewalk.commands.model_card import make_card, make_plain_card
from ropewalk.core.artifact import MANIFEST
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_bytes, format_count
from ropewalk.parallel.torchrun import is_first
from ropewalk.shape.hub import explain_refusal, list_hub_errors
from ropewalk.shape.weight_files import weight_files

_CARD = "README.md"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LEFT_OUT = [".*", "**/.*", MANIFEST]


def push_folder(
    folder: Path,
    name: str,
    *,
    run: Path | None,
    private: bool,
    dry_run: bool,
    endpoint: str | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """Upload the model ``folder`` to the repository ``name``; with ``dry_run`` say what would be sent, without a hub.

    ``run`` is the run that made the folder, where that is known. ``endpoint`` and ``token`` are those of
    huggingface_hub where they are None. Raises UserError for a name that is none, a folder without a model, and where
    the hub refuses.
    """
    if _NAME.fullmatch(name) is None:
        raise UserError(
            f"{name} is no name of a repository", where="--push", why="it must be ORG/NAME", fix="--push me/my-model"
        )
    weight_files(folder)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
    sizes = {name: size for name, size in sizes.items() if not any(fnmatchcase(name, each) for each in _LEFT_OUT)}
    card = None if _CARD in sizes else make_plain_card(folder) if run is None else make_card(run, folder)
    made = {"repository": name, "private": private, "files": sizes, "card": card, "sent": not dry_run}
    told = f"{format_count(len(sizes), 'file')}, {format_bytes(sum(sizes.values()))}" + (
        "" if card is None else ", and a model card"
    )
    if dry_run:
        lines = [f"  {format_bytes(size):>9}  {path}" for path, size in sizes.items()]
        return {**made, "text": "\n".join([f"to {name}, not sent: {told}", *lines])}
    url = _send(folder, name, card, private=private, endpoint=endpoint, token=token) if is_first() else ""
    return {**made, "url": url, "text": f"{told} are in {url}"}


def _send(folder: Path, name: str, card: str | None, *, private: bool, endpoint: str | None, token: str | None) -> str:
    # The import takes half a second and is needed only here.
    from huggingface_hub import HfApi, get_token

    token = token or get_token()
    if token is None:
        raise UserError(
            "the hub does not know you",
            where="--push",
            why="there is no token of an account on this machine",
            fix="`hf auth login` with a token that may write; --dry-run shows what would be sent",
        )
    api = HfApi(endpoint=endpoint, token=token)
    try:
        where = api.create_repo(name, private=private, exist_ok=True)
        message = "Model folder, by ropewalk"
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=_LEFT_OUT, commit_message=message)
        if card is not None:
            api.upload_file(
                repo_id=name,
                path_or_fileobj=card.encode(),
                path_in_repo=_CARD,
                commit_message="Model card, by ropewalk",
            )
    except list_hub_errors() as error:
        said = str(error).strip() or type(error).__name__
        why, fix = explain_refusal(error, name) or (said.splitlines()[0], "check the network, and try again")
        raise UserError(f"{name} cannot be written", where="--push", why=why, fix=fix) from None
    return str(where)
