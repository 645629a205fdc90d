"""Writes an array to an ``.npy`` file piece by piece, as ``numpy.save`` writes it whole.

A file that is mapped and then written to takes its room on the disk page by page. Where the disk is full, the process
is killed by a signal, without a word. A write is an error, which names the file.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped


def save_array(
    path: Path, pieces: Iterable[Shaped[np.ndarray, "..."]], *, dtype: "np.dtype[Any]", shape: tuple[int, ...]
) -> None:
    """Write the rows of ``pieces``, one after the other, as an array of ``shape`` to ``path``."""
    rows = 0
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype=dtype).data)
            rows += len(piece)
    assert rows == shape[0], (path, rows, shape)
