"""The files of a model folder except its weights: the config in both rope formats, the tokenizer unchanged.

transformers 5 writes only ``rope_parameters``; readers of the older keys then run theta 10000 without a warning. So
both formats are written, from one value (shape/layer_keys). Tokenizer files are copied byte for byte, because saving
them again renames classes.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.corpus.tokens.tokenizer import read_bpe
from ropewalk.shape.layer_keys import STALE_KEYS
from ropewalk.shape.weight_files import INDEX, weight_files

CARRIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tekken.json",
    "tokenizer.model*",
    "*.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""Files that are copied byte for byte, except for their lengths: tokenizers, processors, templates, licences."""
_TRUNCATION = re.compile(r'("truncation"\s*:\s*\{[^{}]*"max_length"\s*:\s*)(\d+)')
_SIBLING = re.compile(r"^\s*from \.(\w+) import", re.MULTILINE)


def read_config(folder: Path) -> dict[str, Any]:
    """The raw config.json of a folder whose shape has been read."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def write_config(folder: Path, config: Mapping[str, Any], *, dtype: str) -> None:
    """Write config.json: ``config`` with this type under both key names that readers use, and without ``STALE_KEYS``.

    A multimodal config has the type in its text part as well, if it was there.
    """
    whole = {key: value for key, value in config.items() if key not in STALE_KEYS}
    whole |= {"dtype": dtype, "torch_dtype": dtype}
    if isinstance(text := whole.get("text_config"), Mapping):
        whole["text_config"] = {**text, **{key: dtype for key in ("dtype", "torch_dtype") if key in text}}
    (folder / "config.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def copy_tokenizer(source: Path, folder: Path, *, context_tokens: int) -> None:
    """Copy tokenizer, templates, generation settings and licence byte for byte; only lengths change.

    ``model_max_length`` becomes ``context_tokens``. A generation's ``max_length`` and a tokenizer's truncation are
    raised to it if they are shorter, since they would end texts at the base's context.
    """
    for pattern in CARRIED:
        for path in filter(Path.is_file, source.glob(pattern)):
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
    _set_number(folder / "tokenizer_config.json", "model_max_length", context_tokens)
    _copy_code(source, folder)
    generation = folder / "generation_config.json"
    longest = _read_mapping(generation).get("max_length")
    if isinstance(longest, int) and longest < context_tokens:
        _set_number(generation, "max_length", context_tokens)
    path = folder / "tokenizer.json"
    if path.is_file():
        text = path.read_bytes().decode()
        raised = _TRUNCATION.sub(lambda found: f"{found[1]}{max(int(found[2]), context_tokens)}", text, count=1)
        if raised != text:
            path.write_bytes(raised.encode())


def _read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is no file. Raises UserError for other content."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        found = error
    if not isinstance(found, dict):
        raise UserError(
            f"{path.name} cannot be read",
            where=path.name,
            why=f"{found}"[:60],
            fix="download that file of the model again",
        )
    return found


def _set_number(path: Path, key: str, number: int) -> None:
    """Set ``key`` of a JSON file to ``number``; other bytes stay if the key occurs once. No file: do nothing."""
    if not path.is_file():
        return
    wanted = _read_mapping(path) | {key: number}
    text = path.read_bytes().decode()  # line ends stay as they are
    changed = re.sub(rf'("{key}"\s*:\s*)[^\s,}}]+', rf"\g<1>{number}", text)
    if json.loads(changed) != wanted:  # the key was not there, or not only at the top
        changed = json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
    path.write_bytes(changed.encode())


def _copy_code(source: Path, folder: Path) -> None:
    """Copy the modules in a tokenizer's ``auto_map`` and their imports; if one is missing, drop ``auto_map``."""
    path = folder / "tokenizer_config.json"
    settings = _read_mapping(path)
    named = json.dumps(settings.pop("auto_map", None))
    wanted = {f"{module}.py" for module in re.findall(r'"(\w+)\.\w+"', named)}
    done: set[str] = set()
    while open_names := wanted - done:
        for name in sorted(open_names):
            done.add(name)
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
                wanted |= {f"{module}.py" for module in _SIBLING.findall((source / name).read_text("utf-8"))}
    if any(not (folder / name).is_file() for name in done):
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def check_tokenizer(folder: Path, *, vocabulary: int) -> None:
    """Raise UserError unless the folder has a tokenizer.json whose ids all fit the model's ``vocabulary``."""
    path = folder / "tokenizer.json"
    largest = max(read_bpe(folder).get_vocab(with_added_tokens=True).values())
    if largest >= vocabulary:
        raise UserError(
            "tokenizer and model do not match",
            where=str(path),
            why=f"the tokenizer has token id {largest}, the model {vocabulary} embeddings",
            fix="use the tokenizer that the model was trained with",
        )


def read_token_ids(folder: Path) -> dict[str, int | None]:
    """``bos_token_id`` and ``eos_token_id`` for a config, null where the tokenizer's own files have no such token.

    Null is written explicitly, because transformers assumes 1 and 2 for a Llama whose config has no value.
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
    """Link the weight files of ``source`` into ``folder``, or copy them where the disk allows no links."""
    for path in [*weight_files(source), source / INDEX]:
        if not path.is_file():
            continue
        try:
            os.link(path.resolve(), folder / path.name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, folder / path.name)
