"""``ropewalk export --push ORG/NAME``: uploads a model folder to the Hugging Face hub, with a model card.

The account is that of ``hf auth login``. A new repository is private unless the user says otherwise. The card is made
from the recipe; a README.md that the folder has already is sent as it is.
"""

import json
import re
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_amount, format_bytes, format_length
from ropewalk.parallel.torchrun import is_first
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.find import TINY_BASE
from ropewalk.shape.hub import explain_refusal, list_hub_errors
from ropewalk.shape.read import read_shape
from ropewalk.shape.weight_files import weight_files

_CARD = "README.md"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LEFT_OUT = [".*", "**/.*"]


def push_folder(
    folder: Path,
    name: str,
    *,
    recipe: Recipe | None,
    private: bool,
    dry_run: bool,
    endpoint: str | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """Upload the model ``folder`` to the repository ``name``; with ``dry_run`` say what would be sent, without a hub.

    ``endpoint`` and ``token`` are those of huggingface_hub where they are None. Raises UserError for a name that is
    none, a folder without a model, and where the hub refuses.
    """
    if _NAME.fullmatch(name) is None:
        raise UserError(
            f"{name} is no name of a repository", where="--push", why="it must be ORG/NAME", fix="--push me/my-model"
        )
    weight_files(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    card = None if _CARD in sizes else write_card(folder, recipe)
    made = {"repository": name, "private": private, "files": sizes, "card": card, "sent": not dry_run}
    told = f"{len(sizes)} files, {format_bytes(sum(sizes.values()))}" + ("" if card is None else ", and a model card")
    if dry_run:
        lines = [f"  {format_bytes(size):>9}  {path}" for path, size in sizes.items()]
        return {**made, "text": "\n".join([f"to {name}, not sent: {told}", *lines])}
    url = _send(folder, name, card, private=private, endpoint=endpoint, token=token) if is_first() else ""
    return {**made, "url": url, "text": f"{told} are in {url}"}


def write_card(folder: Path, recipe: Recipe | None) -> str:
    """A model card: what the folder is, from which base, and how long it reads. The licence is the base's."""
    shape = read_shape(folder)
    facts = {"library_name": "transformers", "tags": ["long-context", "ropewalk"]}
    lines = [f"It reads {format_length(shape.context_tokens)} tokens ({shape.context_tokens:,}).", ""]
    if recipe is not None and isinstance(recipe.model, str):
        base = recipe.model.partition("@")[0]
        if not Path(recipe.model).exists() and recipe.model != TINY_BASE.name and "/" in base:
            facts["base_model"] = base
        lines.append(f"Continued pretraining of {base}:")
        for stage in recipe.stages:
            how = "adapters, merged" if stage.lora is not None else "all weights"
            told = f"{format_amount(stage.tokens)} tokens at {format_length(stage.context_length)}, {how}"
            lines.append(
                f"- {told}, positions: `{json.dumps(stage.rope.model_dump(mode='json', exclude_defaults=True))}`"
            )
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in facts.items())
    return f"---\n{front}\n---\n# {shape.architecture}, long context\n\n" + "\n".join(lines) + "\n"


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
