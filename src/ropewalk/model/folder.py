"""The files of a model folder beside its weights: the config in both rope dialects, the tokenizer untouched.

transformers 5 writes only ``rope_parameters``, and readers of the older keys then run theta 10000 without a word; so
both are written, from one value (shape/layer_keys). Tokenizer files are copied byte for byte, because saving them again
renames classes.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.corpus.tokenize import read_bpe
from ropewalk.shape.weight_files import INDEX, weight_files

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_LENGTH = re.compile(r'("model_max_length"\s*:\s*)[^\s,}]+')


def read_config(folder: Path) -> dict[str, Any]:
    """The raw config.json of a folder whose shape has been read."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def write_config(folder: Path, config: Mapping[str, Any], *, dtype: str) -> None:
    """Write config.json: ``config`` with this type under both names that readers know."""
    whole = {**config, "dtype": dtype, "torch_dtype": dtype}
    (folder / "config.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def copy_tokenizer(source: Path, folder: Path, *, context_tokens: int) -> None:
    """Copy tokenizer, generation settings and licence byte for byte; ``model_max_length`` alone changes."""
    for pattern in (*TOKENIZER_FILES, "generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*"):
        for path in source.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    text = path.read_bytes().decode()  # line ends stay as they are
    before = json.loads(text)
    wanted = before | {"model_max_length": context_tokens}
    changed = _LENGTH.sub(rf"\g<1>{context_tokens}", text)
    if json.loads(changed) != wanted:  # the key was not there, or not only at the top
        changed = json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
    path.write_bytes(changed.encode())


def check_tokenizer(folder: Path, *, vocabulary: int) -> None:
    """Raise UserError unless the folder has a tokenizer.json whose ids all fit the model's ``vocabulary``."""
    path = folder / "tokenizer.json"
    largest = max(read_bpe(folder).get_vocab(with_added_tokens=True).values())
    if largest >= vocabulary:
        raise UserError(
            "tokenizer and model do not fit",
            where=str(path),
            why=f"the tokenizer has token id {largest}, the model {vocabulary} embeddings",
            fix="use the tokenizer that the model was trained with",
        )


def read_token_ids(folder: Path) -> dict[str, int | None]:
    """``bos_token_id`` and ``eos_token_id`` for a config, null where the tokenizer's own files name no such token.

    Null is said aloud, because transformers assumes 1 and 2 for a Llama whose config is silent.
    """
    path = folder / "tokenizer_config.json"
    names = json.loads(path.read_text()) if path.is_file() else {}
    tokenizer = read_bpe(folder)
    found: dict[str, int | None] = {}
    for key in ("bos_token", "eos_token"):
        name = names.get(key)
        found[f"{key}_id"] = (
            tokenizer.token_to_id(name["content"] if isinstance(name, dict) else name) if name else None
        )
    return found


def link_weights(source: Path, folder: Path) -> None:
    """Give ``folder`` the weight files of ``source`` without copying them, where the disk allows."""
    for path in [*weight_files(source), source / INDEX]:
        if not path.is_file():
            continue
        try:
            os.link(path.resolve(), folder / path.name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, folder / path.name)
