"""Read documents, positions and labels from a batch in the form of Hugging Face code.

Documents are given by ids, or by positions that begin again at 0, as packing collators write them. transformers shifts
labels inside the model. There a rank would miss the next rank's first label, and a packed document would have to
predict the next one's first token. So labels are shifted here, while the sequences are whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, Shaped

from ropewalk.core.error import UserError

IGNORED = -100
"""transformers' label for a token that is not learnt."""

Fields = Mapping[str, Shaped[np.ndarray, "..."]]
"""What the caller gave, of any shape and type: ``read_whole_batch`` refuses what does not fit with a UserError."""


@dataclass(frozen=True)
class WholeBatch:
    """Sequences before they are cut. ``labels`` are shifted, -100 where nothing is learnt; None if none were given."""

    tokens: Int64[np.ndarray, "rows context"]
    document: Int32[np.ndarray, "rows context"]
    positions: Int64[np.ndarray, "rows context"]
    labels: Int64[np.ndarray, "rows context"] | None

    @property
    def label_count(self) -> int:
        """Labels that are learnt, of all sequences."""
        return 0 if self.labels is None else int((self.labels != IGNORED).sum())


def read_whole_batch(fields: Fields, *, ranks: int) -> WholeBatch:
    """Read ``input_ids`` and, where given, ``labels``, ``position_ids``, ``document_ids`` and ``attention_mask``.

    Raises UserError for shapes that do not fit, sequences shorter than the number of ranks, positions that do not rise
    within a document, and a mask with holes.
    """
    tokens = fields["input_ids"]
    if tokens.ndim != 2 or tokens.shape[1] < ranks:
        raise _unusable(
            "input_ids",
            f"their shape is {list(tokens.shape)}, and {ranks} context ranks share a row",
            fix="give rows of tokens, [rows, context], with at least a token for each rank",
        )
    fitted = {name: _fit(name, field, tokens.shape) for name, field in fields.items()}
    real = _read_mask(fitted.get("attention_mask"), tokens.shape)
    positions = fitted.get("position_ids")
    document = _tell_documents(fitted.get("document_ids"), positions, real)
    counted = _count_positions(document)
    if positions is None:
        positions = counted
    _require_rising(positions, counted, document)
    labels = fitted.get("labels")
    shifted = None if labels is None else _shift(labels, document)
    return WholeBatch(tokens.astype(np.int64), document, positions.astype(np.int64), shifted)


def _fit(name: str, field: Shaped[np.ndarray, "..."], shape: tuple[int, ...]) -> Shaped[np.ndarray, "rows context"]:
    """Broadcast a field to all sequences: as in transformers, one row of positions may stand for all."""
    if field.shape != shape and not (name == "position_ids" and field.shape in {shape[1:], (1, *shape[1:])}):
        raise _unusable(
            name,
            f"its shape is {list(field.shape)}, that of input_ids {list(shape)}",
            fix="give an entry for each token",
        )
    fitted: np.ndarray = np.broadcast_to(field, shape)
    return fitted


def _read_mask(
    mask: Shaped[np.ndarray, "rows context"] | None, shape: tuple[int, ...]
) -> Bool[np.ndarray, "rows context"]:
    if mask is None:
        return np.ones(shape, bool)
    real: np.ndarray = mask != 0
    begins = np.diff(real.astype(np.int8), prepend=0, axis=1) > 0
    if (begins.sum(1) > 1).any():
        raise _unusable(
            "attention_mask",
            f"row {int((begins.sum(1) > 1).argmax())} has padding between its tokens",
            fix="tell documents by document_ids, -1 for padding",
        )
    return real


def _tell_documents(
    ids: Shaped[np.ndarray, "rows context"] | None,
    positions: Shaped[np.ndarray, "rows context"] | None,
    real: Bool[np.ndarray, "rows context"],
) -> Int32[np.ndarray, "rows context"]:
    """Numbers that change where a document begins, -1 for padding."""
    if ids is not None:
        begins = ids[:, 1:] != ids[:, :-1]
        real = real & (ids >= 0)
    elif positions is not None:
        begins = positions[:, 1:] == 0
    else:
        begins = np.zeros_like(real[:, 1:])
    # [rows, 1] and [rows, context - 1] -> [rows, context]
    numbers = np.concatenate([np.zeros_like(begins[:, :1]), begins], axis=1).cumsum(axis=1, dtype=np.int32)
    return np.where(real, numbers, np.int32(-1))


def _count_positions(document: Int32[np.ndarray, "rows context"]) -> Int64[np.ndarray, "rows context"]:
    # [context] -> [rows, context]
    places = np.broadcast_to(np.arange(document.shape[1]), document.shape)
    begins = np.diff(document, prepend=-2, axis=1) != 0
    counted: np.ndarray = places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return counted


def _require_rising(
    positions: Shaped[np.ndarray, "rows context"],
    counted: Int64[np.ndarray, "rows context"],
    document: Int32[np.ndarray, "rows context"],
) -> None:
    falls = (np.diff(positions, axis=1) <= 0) & (counted[:, 1:] > 0) & (document[:, 1:] >= 0)
    if falls.any():
        row, place = np.argwhere(falls)[0].tolist()
        before, after = positions[row, place : place + 2].tolist()
        raise _unusable(
            "position_ids",
            f"row {row}: {before} is followed by {after} at token {place + 1}, in the same document",
            fix="let positions rise within a document and begin again at 0 with the next, or give document_ids",
        )


def _shift(
    labels: Shaped[np.ndarray, "rows context"], document: Int32[np.ndarray, "rows context"]
) -> Int64[np.ndarray, "rows context"]:
    shifted = np.full(labels.shape, IGNORED, np.int64)
    follows = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    shifted[:, :-1] = np.where(follows, labels[:, 1:], IGNORED)
    return shifted


def _unusable(name: str, why: str, *, fix: str) -> UserError:
    return UserError(f"{name} cannot be cut over context ranks", where=f"the batch: {name}", why=why, fix=fix)
