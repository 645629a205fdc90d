"""Reads and writes token ids in the files of other trainers: Megatron, datatrove and nanotron, OLMo, Hugging Face.

All formats but the last are flat ids with a list of document ends. OLMo's ``.npy`` has no header, and its list is
optional: a document ends at the end token. Only datatrove and Hugging Face have a loss mask. In the other formats all
tokens are trained on, so text with masked tokens is refused.
"""

import gzip
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from ropewalk.core.error import UserError, explain_import_fault
from ropewalk.core.quantity import format_count
from ropewalk.corpus.tokens.store import token_dtype

Format = Literal["megatron", "datatrove", "olmo", "datasets"]
Tokens = tuple[Shaped[np.ndarray, "_"], UInt8[np.ndarray, "_"]]
SUFFIX: dict[Format, str] = {"megatron": ".bin", "datatrove": ".ds", "olmo": ".npy", "datasets": ""}
_MEGATRON = b"MMIDIDX\x00\x00"
_MEGATRON_CODES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_NUMPY = b"\x93NUMPY"
_IGNORED = -100


def write_tokens(documents: Iterable[Tokens], stem: Path, *, format: Format, vocabulary: int) -> list[Path]:
    """Write documents in the format of another trainer, as files whose names begin with ``stem``. Returns the files.

    Raises UserError where a token is masked and the format has no loss mask.
    """
    if format == "datasets":
        return [_write_dataset(documents, stem)]
    dtype = np.dtype("<i4") if format == "megatron" and vocabulary > 65_500 else token_dtype(vocabulary)
    target = stem.with_name(stem.name + SUFFIX[format])
    ends, at = [], 0
    masks = stem.with_name(f"{target.name}.loss")
    masked = False
    with target.open("wb") as file, masks.open("wb") as loss:
        for number, (ids, mask) in enumerate(documents):
            file.write(ids.astype(dtype).tobytes())
            loss.write(mask.tobytes())
            masked |= not mask.all()
            if masked and format != "datatrove":
                raise _without_mask(format, stem.name, number)
            at += len(ids)
            ends.append(at)
    if not masked:
        masks.unlink()
    sides = {"megatron": _write_megatron, "datatrove": _write_ends, "olmo": _write_spans}
    return [target, sides[format](target, np.array(ends, dtype=np.int64), dtype), *([masks] if masked else [])]


def read_tokens(path: Path, *, format: Format, vocabulary: int, eos_id: int) -> Iterator[Tokens]:
    """Yield the documents of one file (or saved dataset). Raises UserError where the file is not in ``format``."""
    if format == "datasets":
        yield from _read_dataset(path)
        return
    if format == "megatron":
        ids, ends = _read_megatron(path)
    elif format == "datatrove":
        ids, ends = _map(path, token_dtype(vocabulary)), _read_ends(path)
    else:
        with path.open("rb") as file:
            if file.read(len(_NUMPY)) == _NUMPY:
                raise _broken(path, "it begins with a header of numpy, but OLMo's files are ids alone (array.tofile)")
        ids = _map(path, token_dtype(vocabulary))
        ends = _ends_at(ids, eos_id)
    if len(ends) and (ends[-1] != len(ids) or (np.diff(ends, prepend=0) < 0).any()):
        raise _broken(path, f"its last document ends at {ends[-1]:,}, but the file has {format_count(len(ids), 'id')}")
    masks = path.with_name(f"{path.name}.loss")
    mask = _map(masks, np.dtype("u1")) if masks.exists() else np.broadcast_to(np.uint8(1), ids.shape)
    if len(mask) != len(ids):
        told = format_count(len(mask), "byte")
        raise _broken(path, f"{masks.name} has {told}, but the file has {format_count(len(ids), 'id')}")
    begin = 0
    for end in ends.tolist():
        yield ids[begin:end], np.asarray(mask[begin:end])
        begin = end


def companions(path: Path) -> list[Path]:
    """The files beside ``path`` that belong to it."""
    names = [f"{path.name}.index", f"{path.name}.loss", f"{path.stem}.idx"]
    return [path.with_name(name) for name in names if path.with_name(name).exists()]


def _write_megatron(target: Path, ends: Int64[np.ndarray, "documents"], dtype: np.dtype[Any]) -> Path:
    code = {8: "u2", 4: "i4"}
    index = target.with_suffix(".idx")
    sizes = np.diff(ends, prepend=0).astype("<i4")
    pointers = ((ends - sizes) * dtype.itemsize).astype("<i8")
    number = next(number for number, name in code.items() if dtype == np.dtype(f"<{name}"))
    head = _MEGATRON + struct.pack("<QBQQ", 1, number, len(sizes), len(sizes) + 1)
    documents = np.arange(len(sizes) + 1, dtype="<i8")
    index.write_bytes(head + sizes.tobytes() + pointers.tobytes() + documents.tobytes())
    return index


def _write_ends(target: Path, ends: Int64[np.ndarray, "documents"], dtype: np.dtype[Any]) -> Path:
    index = target.with_name(f"{target.name}.index")
    index.write_bytes(ends.astype("<u8").tobytes())
    return index


def _write_spans(target: Path, ends: Int64[np.ndarray, "documents"], dtype: np.dtype[Any]) -> Path:
    """Write document ends as dolma writes them beside its ids: start, end, id, source, line."""
    index = target.with_suffix(".csv.gz")
    begins = np.concatenate([np.zeros(1, dtype=np.int64), ends])[:-1]
    with gzip.GzipFile(index, "wb", mtime=0) as packed:  # with a time stamp two exports would differ
        lines = (
            f"{start},{end},{number},,{number}\n" for number, (start, end) in enumerate(zip(begins, ends, strict=True))
        )
        packed.writelines(line.encode() for line in lines)
    return index


def _read_megatron(path: Path) -> tuple[Shaped[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
    index = path.with_suffix(".idx")
    data = index.read_bytes() if index.exists() else b""
    if data[:9] != _MEGATRON or len(data) < 34:
        raise _broken(path, f"{index.name} is missing, or is not an index file of Megatron")
    _, code, sequences, documents = struct.unpack("<QBQQ", data[9:34])
    if code not in _MEGATRON_CODES or len(data) < 34 + sequences * 12 + documents * 8:
        raise _broken(path, f"{index.name} is incomplete, or its ids are not of an integer type (code {code})")
    sizes = np.frombuffer(data, "<i4", sequences, 34).astype(np.int64)
    of_document = np.frombuffer(data, "<i8", documents, 34 + sequences * 12)
    total = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    return _map(path, np.dtype(_MEGATRON_CODES[code])), total[of_document[1:]]


def _read_ends(path: Path) -> Int64[np.ndarray, "_"]:
    index = path.with_name(f"{path.name}.index")
    if not index.exists():
        raise _broken(path, f"{index.name}, the file with the ends of the documents, is missing")
    return np.fromfile(index, dtype="<u8").astype(np.int64)


def _ends_at(ids: Shaped[np.ndarray, "_"], eos_id: int) -> Int64[np.ndarray, "_"]:
    ends = np.flatnonzero(ids == eos_id).astype(np.int64) + 1
    return ends if len(ends) and ends[-1] == len(ids) else np.append(ends, len(ids))


def _map(path: Path, dtype: np.dtype[Any]) -> Shaped[np.ndarray, "_"]:
    if path.stat().st_size % dtype.itemsize:
        raise _broken(path, f"{path.stat().st_size:,} bytes are not a multiple of {dtype.itemsize}-byte ids")
    return np.asarray(np.memmap(path, dtype=dtype, mode="r")) if path.stat().st_size else np.empty(0, dtype=dtype)


def _write_dataset(documents: Iterable[Tokens], stem: Path) -> Path:
    datasets = _load_datasets()
    kind = datasets.LargeList(datasets.Value("int32"))  # a plain list holds at most 2^31 ids a file
    features = datasets.Features({"input_ids": kind, "labels": kind})
    arrow = stem.with_name(f"{stem.name}.arrow")
    with datasets.arrow_writer.ArrowWriter(path=str(arrow), features=features) as writer:
        for ids, mask in documents:
            ids = ids.astype(np.int32)
            writer.write({"input_ids": ids, "labels": np.where(mask == 1, ids, np.int32(_IGNORED))})
        writer.finalize()
    datasets.Dataset.from_file(str(arrow)).save_to_disk(str(stem))
    arrow.unlink()
    return stem


def _read_dataset(path: Path) -> Iterator[Tokens]:
    dataset = _load_datasets().load_from_disk(str(path)).with_format("numpy")
    if "input_ids" not in dataset.column_names:
        raise _broken(path, f"it has no column input_ids, only {', '.join(dataset.column_names)}")
    for record in dataset:
        ids = np.asarray(record["input_ids"])
        labels = record.get("labels")
        yield ids, np.ones(len(ids), np.uint8) if labels is None else (np.asarray(labels) != _IGNORED).astype(np.uint8)


def _load_datasets() -> Any:
    try:
        import datasets
    except ImportError as fault:
        raise UserError(
            "Hugging Face datasets need another library",
            where="format: datasets",
            why=explain_import_fault(fault, "datasets"),
            fix="pip install 'ropewalk[hub]'",
        ) from None
    return datasets


def _without_mask(format: str, source: str, number: int) -> UserError:
    return UserError(
        f"the format {format} has no loss mask",
        where=f"{source}, document {number}",
        why="some of its tokens are not trained on, and files of this format cannot show that",
        fix="export as datatrove or datasets, or use a recipe without this source in another run folder",
    )


def _broken(path: Path, why: str) -> UserError:
    return UserError(
        "token ids cannot be read",
        where=str(path),
        why=why,
        fix="copy all its files again, or give its real format (tokens: megatron, datatrove, olmo, datasets)",
    )
