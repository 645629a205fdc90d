"""What a model's measurements gave, kept in a folder: a base that many models are compared with is read once.

The name of an entry is a digest of the weights and of all tokens that are read, so an entry is used for exactly the
same measurement only. Sums are kept, not scores: paired changes need them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ropewalk.core.artifact import is_finished, new_folder, read_manifest
from ropewalk.core.digest import digest_arrays, digest_file, digest_value
from ropewalk.core.progress import say
from ropewalk.core.record import Score, read_scores, write_scores
from ropewalk.evaluate.items import Item, Sums
from ropewalk.parallel.collective import rank_and_ranks, share_from_first
from ropewalk.parallel.rank_zero import first_does

_FORMAT = 1
_WEIGHTS = ("*.safetensors", "config.json", "tokenizer.json")
_SUMS, _WRITTEN = "sums.npz", "written.json"

Found = tuple[list[Sums], list[Score]]
"""The sums of each measurement, and the scores of written answers."""


def find_or_measure(
    store: Path, model: Path, items: Sequence[Sequence[Item]], asked: object, *, name: str, measure: Callable[[], Found]
) -> Found:
    """The sums of ``items`` and the scores of written answers, from ``store`` or by ``measure``, which is then kept.

    ``asked`` is JSON-like: all else that decides the result, such as the precision. Every rank calls it.
    """
    entry = share_from_first(_name_entry(store, model, items, asked) if not rank_and_ranks()[0] else store)
    kept = share_from_first(_read(entry, name) if not rank_and_ranks()[0] and is_finished(entry) else None)
    if kept is not None:
        if not rank_and_ranks()[0]:
            say(f"{name}: not read again, its sums are in {entry}")
        return kept
    found = measure()
    first_does(lambda: _write(entry, found, model))
    return found


def find_sums(store: Path, model: Path, items: Sequence[Sequence[Item]], asked: object) -> list[Sums] | None:
    """The kept sums of ``items``, or None if this model was not asked for exactly these."""
    entry = _name_entry(store, model, items, asked)
    return _read(entry, model.name)[0] if is_finished(entry) else None


def _name_entry(store: Path, model: Path, items: Sequence[Sequence[Item]], asked: object) -> Path:
    files = {path.name: path for pattern in _WEIGHTS for path in sorted(model.glob(pattern))}
    if is_finished(model):  # its files were compared with its manifest
        known = read_manifest(model)["files"]
        weights = {name: known.get(name) or digest_file(path) for name, path in files.items()}
    else:
        weights = {name: digest_file(path) for name, path in files.items()}
    read = [digest_arrays(*(field for item in group for field in (item.tokens, item.group))) for group in items]
    return store / digest_value([_FORMAT, weights, read, asked])


def _read(entry: Path, name: str) -> Found:
    kept = np.load(entry / _SUMS, allow_pickle=False)
    sums = [Sums(*part) for part in np.split(kept["table"], kept["ends"], axis=1)]
    written = [replace(score, model=name) for score in read_scores(entry / _WRITTEN)]
    return sums, written


def _write(entry: Path, found: Found, model: Path) -> None:
    if entry.exists():
        return
    with new_folder(entry, kind="evaluation", inputs={"model": str(model)}) as work:
        # [3, groups] of each measurement -> [3, all groups]
        table = np.concatenate([np.stack((sums.count, sums.nll, sums.correct)) for sums in found[0]], axis=1)
        ends = np.cumsum([len(sums.count) for sums in found[0]])[:-1]
        np.savez(work / _SUMS, table=table, ends=ends)
        write_scores(work / _WRITTEN, found[1])
