"""Which tensors of a model folder belong to the trained model, and what its class calls them.

A multimodal file holds the text model's tensors under a prefix, and the prefix has changed between versions of
transformers; so it is found by the embedding, which every text model has. All other tensors are *carried*: the vision
tower, the projector, and layers that the class ignores, such as those that predict several tokens (MTP). Nobody trains
them, they are never held in memory, and an export has them to the bit.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError
from ropewalk.model.architectures import class_of
from ropewalk.model.read_rows import StoredTensor
from ropewalk.shape.families import OWN_TYPE, row_of
from ropewalk.shape.wrappers import WRAPPERS, find_wrapper, read_text_config

_PREFIXES = ("language_model.model.", "model.language_model.", "model.text_model.", "model.")
_HEADS = ("lm_head.", "language_model.lm_head.")
_OWN_PREFIX, _EMBEDDING = "model.", "embed_tokens.weight"
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class FileNames:
    """The names of a folder's tensors. ``trained`` maps a name in the class to the name in the files.

    The matrices of those that are ``turned``, by their names in the files, are the transposes of the class's.
    """

    trained: Mapping[str, str]
    carried: tuple[str, ...] = ()
    turned: frozenset[str] = frozenset()

    @property
    def differ(self) -> bool:
        """Whether the files hold anything but the class's own tensors under their own names."""
        return bool(self.carried) or any(name != stored for name, stored in self.trained.items())


def sort_names(config: Mapping[str, Any], stored: Mapping[str, StoredTensor], folder: Path) -> FileNames:
    """The names ``stored`` in the files of ``folder``, whose config.json is ``config``, by the text model's class.

    Raises UserError for a multimodal folder whose files have no text model, or two. A name that the class does not have
    is not refused here.
    """
    text, turned = read_text_config(config, str(folder / "config.json")), frozenset[str]()
    if (wrapper := find_wrapper(config)) is not None:
        prefix = _find_prefix(wrapper, stored, folder)
        renamed = {name: _name_in_class(name, prefix) for name in stored}
        renamed = {name: None if own and _is_another_s(own, text) else own for name, own in renamed.items()}
        if WRAPPERS[wrapper].turned_experts:
            width = text["hidden_size"]
            turned = frozenset(name for name, each in stored.items() if _is_turned(name, each.shape, width))
    else:
        renamed = {name: None if _is_ignored(name, text) else _name_of_family(name, text) for name in stored}
    trained = {own: name for name, own in renamed.items() if own is not None}
    return FileNames(trained, tuple(name for name, own in renamed.items() if own is None), turned)


def predicts_more(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a carried tensor belongs to a layer that predicts several tokens (MTP): behind the last, or named so."""
    layer = _LAYER.match(name)
    return "mtp" in name.lower() or (layer is not None and int(layer[1]) >= (config.get("num_hidden_layers") or 0))


def _find_prefix(wrapper: str, stored: Collection[str], folder: Path) -> str:
    found = [prefix for prefix in _PREFIXES if prefix + _EMBEDDING in stored]
    if len(found) != 1:
        others = sorted(name for name in stored if name.endswith(_EMBEDDING))
        raise UserError(
            "the text part of this multimodal model is not in its files" if not found else "two text parts are in it",
            where=str(folder),
            why=f"{wrapper} has one tensor {' or '.join(prefix + _EMBEDDING for prefix in found or _PREFIXES)}"
            + (f", and the files have {', '.join(others[:3]) or 'no embedding'}" if not found else ""),
            fix="download the folder again; weights of another format (params.json, GGUF) are not read",
        )
    return found[0]


def _is_turned(name: str, shape: tuple[int, ...], width: int) -> bool:
    """Whether the matrices of experts lie transposed. transformers decides it by the shape too, and turns no square."""
    place = {"mlp.experts.gate_up_proj": 2, "mlp.experts.down_proj": 1}.get(".".join(name.split(".")[-3:]))
    return place is not None and len(shape) == 3 and shape[place] != width == shape[3 - place]


def _name_in_class(name: str, prefix: str) -> str | None:
    """The name of a tensor in the text class, None for one of another part."""
    head = next((head for head in _HEADS if name.startswith(head)), None)
    if head is not None:
        return "lm_head." + name.removeprefix(head)
    return _OWN_PREFIX + name.removeprefix(prefix) if name.startswith(prefix) else None


def _name_of_family(name: str, config: Mapping[str, Any]) -> str:
    """The name of a tensor in its class, where a family's files have another one."""
    inner = config.get(OWN_TYPE)
    family = row_of(inner["architecture"] if inner else config["architectures"][0])
    names = family.file_names if family else {}
    begin = next((each for each in names if each.endswith(".") and name.startswith(each)), "")
    return names[begin] + name.removeprefix(begin) if begin else names.get(name, name)


def _is_another_s(own: str, config: Mapping[str, Any]) -> bool:
    """Whether a tensor makes keys or values of a layer that uses those of another one; published files have it."""
    layer, sharing = _LAYER.match(own), config.get("num_kv_shared_layers") or 0
    made = own.endswith(tuple(f".self_attn.{name}.weight" for name in ("k_proj", "v_proj", "k_norm", "v_norm")))
    return made and layer is not None and sharing > 0 and int(layer[1]) >= config["num_hidden_layers"] - sharing


def _is_ignored(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the class of ``config`` has no place for a tensor and says so itself.

    Its patterns name layers by number, and another size of the same class may have a layer of this number. So a layer
    below ``num_hidden_layers`` is the class's own. The layers behind them predict more tokens, where the file says so.
    """
    if _is_another_s(name, config):
        return True
    inner = config.get(OWN_TYPE)
    name_of_class = inner["architecture"] if inner else config["architectures"][0]
    layers, extra = config.get("num_hidden_layers") or 0, config.get("num_nextn_predict_layers") or 0
    layer = _LAYER.match(name)
    if layer is not None:
        number = int(layer[1])
        if number < layers:
            return False
        if number < layers + extra:
            return True
    patterns = class_of(name_of_class)._keys_to_ignore_on_load_unexpected if row_of(name_of_class) else None
    return any(re.search(pattern, name) for pattern in patterns or ())
