"""Write weights into copies of a model's files: the same files, names and order, and every other tensor to the bit.

An export of a multimodal model goes back into the files of its base: the trained tensors are replaced at their places,
and the carried ones are copied as bytes, whatever their type. A header stays as it is. Only where the trained tensors
get another type, it is written again with new places; carried tensors keep their type then too.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from ropewalk.core.strict_json import spell_json
from ropewalk.model.file_names import FileNames
from ropewalk.model.read_rows import read_header
from ropewalk.model.weights import Dtype, open_to_readers, refuse_bad
from ropewalk.model.write_weights import TYPE_NAMES, make_header, write_tensor, written_type
from ropewalk.shape.weight_files import INDEX, weight_files

_Entry = Mapping[str, Any]
_PIECE_BYTES = 1 << 22


def write_into_copies(
    weights: Mapping[str, Shaped[Tensor, "..."]],
    like: Path,
    folder: Path,
    *,
    names: FileNames,
    dtype: Dtype,
    where: Path,
) -> None:
    """Write the files of ``like`` into ``folder``, with ``weights`` as ``dtype`` in place of its trained tensors.

    ``weights`` have all names of ``names.trained``, with the shapes of the class. Each is read once, and one is held at
    a time. Raises UserError, which names the folder ``where``, for a value that is not finite in ``dtype``.
    """
    own_names = {stored: own for own, stored in names.trained.items()}
    kinds, total_bytes = {stored: written_type(own, dtype) for stored, own in own_names.items()}, 0
    for path in weight_files(like):
        old, begin = read_header(path)
        entries = _lay_out({name: entry for name, entry in old.items() if name != "__metadata__"}, kinds)
        total_bytes += sum(end - start for start, end in (entry["data_offsets"] for entry in entries.values()))
        with path.open("rb") as source, (folder / path.name).open("wb") as file:
            if all(old[name] == entry for name, entry in entries.items()):
                _copy(source, file, begin)
            else:
                file.write(make_header(entries, old.get("__metadata__")))
            for name, entry in sorted(entries.items(), key=lambda item: _begin(item[1])):
                if name in own_names:
                    tensor = weights[own_names[name]].to(kinds[name])
                    if name in names.turned:
                        tensor = tensor.transpose(1, 2)  # [experts, rows, width] -> [experts, width, rows]
                    tensor = tensor.contiguous()
                    assert list(tensor.shape) == entry["shape"], name
                    refuse_bad(where, own_names[name], bad=write_tensor(tensor, file), values=tensor.numel())
                else:
                    start, end = old[name]["data_offsets"]
                    source.seek(begin + start)
                    _copy(source, file, end - start)
    if (like / INDEX).is_file():
        _write_index(like / INDEX, folder / INDEX, total_bytes)
    open_to_readers(folder)


def _lay_out(old: Mapping[str, _Entry], kinds: Mapping[str, torch.dtype]) -> dict[str, _Entry]:
    """The entries of a file's header in their old order; ``kinds`` are the types of the trained tensors.

    Where no type changes, every place stays. Otherwise tensors with larger elements come first, as the library writes
    them, so that each begins at a multiple of its element's size, which readers need. The order of the entries does not
    say the places, so another export in the old type gets the old places back.
    """
    types = {name: TYPE_NAMES[kinds[name]] if name in kinds else entry["dtype"] for name, entry in old.items()}
    if all(types[name] == entry["dtype"] for name, entry in old.items()):
        return dict(old)
    sizes = {name: end - start for name, (start, end) in ((name, entry["data_offsets"]) for name, entry in old.items())}
    counts = {name: math.prod(entry["shape"]) for name, entry in old.items()}
    sizes |= {name: counts[name] * kinds[name].itemsize for name in old if name in kinds}
    places, begin = {}, 0
    for name in sorted(old, key=lambda name: -(sizes[name] / max(1, counts[name]))):
        places[name] = [begin, begin + sizes[name]]
        begin += sizes[name]
    return {
        name: {"dtype": types[name], "shape": entry["shape"], "data_offsets": places[name]}
        for name, entry in old.items()
    }


def _begin(entry: _Entry) -> int:
    begin: int = entry["data_offsets"][0]
    return begin


def _copy(source: IO[bytes], file: IO[bytes], count: int) -> None:
    while count:
        piece = source.read(min(count, _PIECE_BYTES))
        if not piece:
            raise OSError(f"{source.name} ends inside a tensor")
        file.write(piece)
        count -= len(piece)


def _write_index(old: Path, new: Path, total_bytes: int) -> None:
    """The index names the same files; its total changes where a type did."""
    index = json.loads(old.read_text())
    metadata = index.get("metadata") or {}
    if metadata.get("total_size") == total_bytes:
        new.write_bytes(old.read_bytes())
    else:
        new.write_text(spell_json({**index, "metadata": {**metadata, "total_size": total_bytes}}, indent=2))
