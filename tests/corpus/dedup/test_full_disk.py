"""A disk that is full while columns are written is an error with its file, not a signal. The disk is a small tmpfs."""

import errno
import os
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from ropewalk.corpus.dedup.external_sort import Column, PairSpool
from ropewalk.corpus.prepare.assemble_shards import _join_columns
from ropewalk.corpus.tokens.array_file import save_array
from small_disk import mount

DISK_BYTES = 300 << 10
REFUSED, OTHER = 77, 78


def mark_pairs(disk: Path, _: Path) -> None:
    numbers = np.arange(4000, dtype=np.uint64) % 7 << np.uint64(60)
    spool = PairSpool(disk / "pairs", 400_000)
    spool.add(numbers, rank=numbers, place=np.arange(0, 400_000, 100))
    spool.find_repeated()


def set_flags(disk: Path, _: Path) -> None:
    column = Column(disk / "chosen", 400_000, np.bool_, filled=True)
    column.open()[::100] = True


def join_columns(disk: Path, home: Path) -> None:
    np.save(home / "bytes.npy", np.arange(60_000))
    _join_columns([home], [["en"]], ["en"], disk)


def write_on_it(write: Callable[[Path, Path], None], disk: Path, home: Path) -> None:
    if not mount(disk, DISK_BYTES):
        os._exit(REFUSED)
    try:
        write(disk, home)
    except OSError as error:
        os._exit(0 if error.errno == errno.ENOSPC else OTHER)
    os._exit(OTHER)


@pytest.mark.parametrize("write", [mark_pairs, set_flags, join_columns])
def test_a_full_disk_is_an_error(write: Callable[[Path, Path], None], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    process = get_context("fork").Process(target=write_on_it, args=(write, tmp_path / "disk", tmp_path))
    process.start()
    process.join()
    if process.exitcode == REFUSED:
        pytest.skip("no disk can be mounted here")
    assert process.exitcode == 0


@pytest.mark.parametrize("shape", [(0,), (7,), (1000, 2)])
def test_an_array_in_pieces_is_the_file_that_numpy_saves(tmp_path: Path, shape: tuple[int, ...]) -> None:
    whole = np.random.default_rng(0).integers(0, 1 << 60, size=shape)
    pieces = (whole[at : at + 300] for at in range(0, len(whole), 300))
    save_array(tmp_path / "pieces.npy", pieces, dtype=whole.dtype, shape=shape)
    np.save(tmp_path / "whole.npy", whole)
    assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
