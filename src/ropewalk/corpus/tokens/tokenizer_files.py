"""Reads the tokenizer files of a model folder: tokenizer.json, border tokens and their names, the chat template."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Bpe

from ropewalk.core.error import UserError

_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def read_bpe(folder: Path) -> Bpe:
    """Read tokenizer.json. Raises UserError where it is missing or broken."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            "the model has no fast tokenizer" if folder.is_dir() else "there is no such tokenizer",
            where=str(path),
            why=f"text is encoded by tokenizer.json, and there is no such {'file' if folder.is_dir() else 'folder'}",
            fix=f"write it once: AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})",
        )
    try:
        return Bpe.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the Rust side raises a bare Exception
        raise UserError(
            "a tokenizer cannot be read", where=str(path), why=str(error), fix="copy it again from the base model"
        ) from error


def read_template(folder: Path, settings: Mapping[str, Any], name: str = "default") -> str | None:
    """A chat template, from its own file or from the config. The config may hold several templates with names."""
    path = folder / ("chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja")
    if path.is_file():
        return path.read_text(encoding="utf-8")
    held = settings.get("chat_template")
    if isinstance(held, list):
        held = {entry["name"]: entry["template"] for entry in held}
    if isinstance(held, dict):
        held = held.get(name)
    elif name != "default":
        held = None
    return None if held is None else str(held)


def read_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """The names of special tokens in templates (``bos_token``, ``pad_token`` and so on), each with its token."""
    given = {f"{name}_token": settings.get(f"{name}_token") for name in _NAMES}
    held = {key: token.get("content") if isinstance(token, dict) else token for key, token in given.items()}
    return {key: str(token) for key, token in held.items() if token is not None}


def added_bos(bpe: Bpe, settings: dict[str, Any]) -> int | None:
    """The id of the BOS that the base's tokenizer adds before a text, or None.

    It comes from ``add_bos_token`` of the config, else from a test of the post-processor.
    """
    named = token_id(bpe, settings, "bos")
    told = settings.get("add_bos_token")
    if told is not None:
        return named if told else None
    ids = bpe.encode("x", add_special_tokens=True).ids
    return named if named is not None and ids[0] == named else None


def token_id(bpe: Bpe, settings: dict[str, Any], name: str) -> int | None:
    """The id of ``bos`` or ``eos`` (``name``), found by its token or its number; None where there is none."""
    token = settings.get(f"{name}_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None:
        found: int | None = bpe.token_to_id(str(token))
        return found
    number = settings.get(f"{name}_token_id")
    if isinstance(number, list):
        number = number[0] if number else None
    return None if number is None else int(number)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file; return an empty dict where there is none. Raises UserError where the file is broken."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path.name} cannot be read", where=str(path), why=str(error), fix="copy it again from the base model"
        ) from None
    return content
