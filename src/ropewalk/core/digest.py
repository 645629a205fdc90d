"""Digests of contents: of specs, files and arrays.

They prove integrity, not authenticity: xxh3-128 finds every accident at 10 GB/s, but no attack.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Shaped

_CHUNK_BYTES = 1 << 22
_EXACT_BITS = 52
_UNDECIDING = "run", "trackers", "strict", "trial", "hardware", "nodes", "mix_study"


def digest_value(value: Any) -> str:
    """Digest of a JSON-like value; the order of its keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return digest_bytes(text.encode())


def digest_recipe(recipe: Mapping[str, Any]) -> str:
    """Digest of a recipe without the keys that decide no result: run folder, text workers, trackers, strictness,
    the mark of a trial, the hardware of plans, the study that a mix is compared with."""
    corpus = {key: value for key, value in recipe["corpus"].items() if key not in ("workers", "worker_count")}
    decides = {key: value for key, value in recipe.items() if key not in (*_UNDECIDING, "corpus")}
    return digest_value(decides | {"corpus": corpus})


def digest_bytes(data: bytes | memoryview) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def digest_file(path: Path) -> str:
    """Digest of a file's bytes, read in pieces of 4 MiB."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def digest_arrays(*arrays: Shaped[np.ndarray, "..."]) -> int:
    """Digest of arrays with their shapes and dtypes: 52 bits, so that a float64 in a reduction holds it exactly."""
    state = xxhash.xxh3_64()
    for array in arrays:
        state.update(f"{array.dtype}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.intdigest() >> (64 - _EXACT_BITS)
