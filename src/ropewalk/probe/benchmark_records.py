"""Reads the JSON records of a benchmark's file; an error names the file, the record and the key."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.core.error import UserError


def read_benchmark_records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, record) of a JSON list (.json), of its ``data`` list, or of JSON lines (.jsonl).

    Raises UserError where the file cannot be read, a record is no object, or there is none.
    """
    is_empty = True
    for place, record in _read_values(path):
        if not isinstance(record, Mapping):
            raise _fault(place, f"a record is a {type(record).__name__}, not an object")
        yield place, record
        is_empty = False
    if is_empty:
        raise _fault(str(path), "it has no record")


def _read_values(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{path}, line {number}", _parse(line, f"{path}, line {number}")
            return
        content = _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise _fault(str(path), error.strerror or str(error)) from None
    if isinstance(content, Mapping):
        content = content.get("data")
    if not isinstance(content, list):
        raise _fault(str(path), "it holds neither a list of records nor a list under data")
    yield from ((f"{path}, record {number}", record) for number, record in enumerate(content, 1))


def _parse(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise _fault(where, str(error)) from None


def find_text(record: Mapping[str, Any], key: str, place: str) -> str:
    """The text of ``key``. Raises UserError where there is none."""
    value = record.get(key)
    if not isinstance(value, str):
        raise refuse_record(
            place, f"{key} is {'missing' if value is None else f'a {type(value).__name__}'}, not a text"
        )
    return value


def find_texts(record: Mapping[str, Any], key: str, place: str) -> tuple[str, ...]:
    """The texts of ``key``: one or more, or a list of lists of them. Raises UserError for anything else."""
    found = tuple(_flatten(record.get(key), place, key))
    if not found:
        raise refuse_record(place, f"{key} has no text")
    return found


def _flatten(value: Any, place: str, key: str) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for each in value:
            yield from _flatten(each, place, key)
    else:
        raise refuse_record(place, f"{key} is {'missing' if value is None else f'a {type(value).__name__}'}")


def refuse_record(place: str, why: str) -> UserError:
    """The error for a record that the benchmark does not have."""
    return _fault(place, why)


def _fault(where: str, why: str) -> UserError:
    return UserError(
        "a benchmark's file cannot be read",
        where=where,
        why=why,
        fix="give the file as its authors publish it, with the kind that it is (docs/benchmarks.md)",
    )
