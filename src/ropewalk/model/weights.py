"""The contents of a model folder's safetensors files, read from their headers, and a check that they fit the model.

transformers fills a missing tensor with random numbers and drops an unknown one, both with a warning. Here the names
and shapes must be exactly the model's, before a single value is read.
"""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ropewalk.core.error import UserError
from ropewalk.model.expert_files import join_experts
from ropewalk.model.file_names import FileNames, sort_names
from ropewalk.model.folder import read_config
from ropewalk.model.read_rows import StoredTensor as StoredTensor
from ropewalk.model.read_rows import are_equal, count_bad, count_stored_bad, read_begins
from ropewalk.model.read_rows import read_tensor as read_tensor
from ropewalk.shape.weight_files import INDEX as INDEX
from ropewalk.shape.weight_files import SINGLE as SINGLE
from ropewalk.shape.weight_files import damaged, weight_files

Dtype = Literal["float32", "bfloat16", "float16"]
_FLOATS: Mapping[str, Dtype] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_DERIVED = ("rotary_emb.inv_freq",)  # old files have it; every model computes it from its config


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Shape and type of every stored tensor of the trained model, by its name in the model's class.

    Raises UserError for files that are cut short or broken. Carried tensors are left out.
    """
    stored = read_stored(folder)
    names = sort_names(read_config(folder), stored, folder)
    return {
        name: stored[in_file].turn() if in_file in names.turned else stored[in_file]
        for name, in_file in names.trained.items()
    }


def read_file_names(folder: Path) -> FileNames:
    """Which tensors of a folder are the trained model's, and which are carried."""
    return sort_names(read_config(folder), read_stored(folder), folder)


def read_stored(folder: Path) -> dict[str, StoredTensor]:
    """Shape and type of every tensor in a folder's files, by its name there; raises UserError as ``read_headers``."""
    stored: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        try:
            found = read_file_headers(path)
        except SafetensorError as error:
            raise damaged(path, f"safetensors says: {error}") from None
        for name in found:
            if name in stored:
                raise damaged(path, f"{name} is also in {stored[name].file.name}")
        stored |= found
    return {name: tensor for name, tensor in stored.items() if not name.endswith(_DERIVED)}


def read_file_headers(path: Path) -> dict[str, StoredTensor]:
    """The same for one file. Raises safetensors' own error for a file that is cut short or broken."""
    with safe_open(path, framework="pt") as file:  # it checks the header and the file's length
        begins = read_begins(path)
        views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        return {
            name: StoredTensor(path, tuple(view.get_shape()), str(view.get_dtype()), begins[name])
            for name, view in views.items()
        }


def check_weights(folder: Path, expected: Mapping[str, tuple[int, ...]], *, tied: Mapping[str, str]) -> None:
    """Raise UserError unless the stored tensors are exactly ``expected``, in floating point.

    ``expected`` has the names and shapes of the class; files may have each expert apart (expert_files.py). ``tied``
    maps a name that may be absent to the name that it equals. If it is stored as well, it must hold the same values.
    """
    stored = join_experts(read_headers(folder))
    check_tensor_names(folder, stored, expected, tied=tied)
    for name, tensor in stored.items():
        if tensor.shape != expected[name]:
            raise UserError(
                f"{name} has another shape than in the config",
                where=str(tensor.file),
                why=f"stored {list(tensor.shape)}, expected {list(expected[name])}",
                fix="take config.json and weights from the same model",
            )
        if tensor.dtype not in _FLOATS:
            raise UserError(
                f"{name} is stored in a type that cannot be trained",
                where=str(tensor.file),
                why=f"its type is {tensor.dtype}, and supported are {', '.join(_FLOATS)}",
                fix="choose the unquantized model, or convert it",
            )
    for name, source in tied.items():
        if name in stored and not are_equal(stored[name], stored[source]):
            raise UserError(
                f"{name} is tied in the config, but has its own values in the file",
                where=str(stored[name].file),
                why=f"tie_word_embeddings is true, so {source} would silently replace it",
                fix='set "tie_word_embeddings": false in config.json if the model was trained with two matrices',
            )


def check_tensor_names(
    folder: Path, found: Collection[str], expected: Collection[str], *, tied: Collection[str]
) -> None:
    """Raise UserError unless the names ``found`` are exactly ``expected``; those of ``tied`` may be absent."""
    missing = [name for name in expected if name not in found and name not in tied]
    unknown = [name for name in found if name not in expected]
    if missing or unknown:
        parts = [f"{len(missing)} missing ({_list(missing)})"] * bool(missing)
        parts += [f"{len(unknown)} unknown ({_list(unknown)})"] * bool(unknown)
        raise UserError(
            "the weights do not match this config",
            where=str(folder),
            why="tensors: " + ", ".join(parts),
            fix="download the folder again; check num_hidden_layers, tie_word_embeddings and architectures in "
            "config.json",
        )


def open_to_readers(folder: Path) -> None:
    """Give the new weight files the rights of the other files: safetensors makes them readable only by the owner."""
    rights = (folder / "config.json").stat().st_mode if (folder / "config.json").exists() else 0o644
    for path in folder.glob("*.safetensors"):
        path.chmod(rights)


def check_finite(folder: Path, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
    """Raise UserError if a tensor holds a value that is not a finite number."""
    for name, tensor in tensors.items():
        refuse_bad(folder, name, bad=count_bad(tensor), values=tensor.numel())


def check_stored(folder: Path) -> None:
    """Raise UserError if a stored tensor holds a value that is not finite. A few rows are held at a time."""
    for name, stored in read_headers(folder).items():
        refuse_bad(folder, name, bad=count_stored_bad(stored), values=math.prod(stored.shape))


def refuse_bad(folder: Path, name: str, *, bad: int, values: int) -> None:
    """Raise UserError if ``bad`` of the ``values`` of a tensor are not finite, and ``bad`` is not 0."""
    if bad:
        raise UserError(
            f"{name} is not finite",
            where=str(folder),
            why=f"{bad} of {values} values are NaN or infinite",
            fix="download the weights again, or use an earlier checkpoint",
        )


def stored_dtype(folder: Path) -> Dtype:
    """The type of the stored weights (``bfloat16`` ...); the type of most tensors where a model mixes types."""
    kinds = [tensor.dtype for tensor in read_headers(folder).values()]
    return _FLOATS[max(sorted(set(kinds)), key=kinds.count)]


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
