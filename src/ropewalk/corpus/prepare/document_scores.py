"""Values of documents by column name, and the selection of long documents by these values.

A value comes from the measures that cleaning records, or by document id from a file that a model wrote
(evaluate/length_gain). The selection is stored as indices, since users often change it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ropewalk.core.error import UserError
from ropewalk.core.seed import seed_for
from ropewalk.corpus.prepare.tokenized import Tokenized
from ropewalk.corpus.spec import Selection, Source

_FULL_WEIGHT = 95
_SHOWN = 5


@dataclass(frozen=True)
class Picked:
    """``why``: by document number, the reason why a long document is not trained on.

    ``examples``: the best and worst documents, by column.
    """

    why: Mapping[int, str]
    examples: Mapping[str, Mapping[str, list[dict[str, Any]]]]


def pick_documents(source: Source, stored: Tokenized, documents: Sequence[Mapping[str, Any]]) -> Picked:
    """Apply the ``select`` rules of a source to its stored documents. ``documents`` holds a record of each of them.

    Raises UserError for a column that no document has.
    """
    scores = _read_scores(source) if source.select else {}
    _refuse_repeated(source, documents, scores)
    why: dict[int, str] = {}
    examples: dict[str, Mapping[str, list[dict[str, Any]]]] = {}
    for rule in source.select:
        values = _column(rule, source, documents, scores)
        applies = (stored.tokens >= rule.from_tokens) & ~np.isnan(values)
        for number in np.flatnonzero(applies).tolist():
            fault = _fault(rule, float(values[number]), str(documents[number]["id"]), values[applies])
            if fault is not None:
                why.setdefault(number, fault)
        examples[rule.column] = _best_and_worst(values, applies, documents)
    return Picked(why, examples)


def _column(
    rule: Selection,
    source: Source,
    documents: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Any]],
) -> Float64[np.ndarray, "documents"]:
    found = [
        scores.get(document["id"], {}).get(rule.column, (document["measures"] or {}).get(rule.column))
        for document in documents
    ]
    values = np.array([math.nan if value is None else float(value) for value in found], dtype=np.float64)
    if np.isnan(values).all():
        raise UserError(
            "no document has the column that `select` uses",
            where=f"source {source.name}: select {rule.column}",
            why=f"neither {source.scores or 'a scores file (none is named)'} nor the measures of long texts contain it",
            fix="give the file that `ropewalk corpus score RECIPE FILE` wrote as `scores` of the source, or select "
            "another column",
        )
    return values


def _fault(rule: Selection, value: float, id: str, all_values: Float64[np.ndarray, "_"]) -> str | None:
    if rule.at_least is not None and value < rule.at_least:
        return f"{rule.column} {value:.4g} below {rule.at_least:g}"
    if rule.at_most is not None and value > rule.at_most:
        return f"{rule.column} {value:.4g} above {rule.at_most:g}"
    if rule.weigh:
        full = float(np.percentile(all_values, _FULL_WEIGHT))
        chance = max(0.0, value / full) if full > 0 else 1.0
        if seed_for("select", rule.column, id) / 2**63 >= chance:
            return f"{rule.column} {value:.4g} gave the document a probability of {chance:.0%}"
    return None


def _best_and_worst(
    values: Float64[np.ndarray, "documents"],
    applies: Bool[np.ndarray, "documents"],
    documents: Sequence[Mapping[str, Any]],
) -> dict[str, list[dict[str, Any]]]:
    numbers = np.flatnonzero(applies)
    order = numbers[np.argsort(values[numbers], kind="stable")].tolist()

    def show(chosen: Sequence[int]) -> list[dict[str, Any]]:
        return [{"id": documents[n]["id"], "value": float(values[n]), "text": documents[n]["text"]} for n in chosen]

    return {"best": show(order[::-1][:_SHOWN]), "worst": show(order[:_SHOWN])}


def _read_scores(source: Source) -> dict[str, dict[str, Any]]:
    if source.scores is None:
        return {}
    path = Path(source.scores)
    scores: dict[str, dict[str, Any]] = {}
    lines_of: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            "a scores file cannot be read",
            where=f"source {source.name}: {path}",
            why=error.strerror or str(error),
            fix="run `ropewalk corpus score RECIPE FILE`, or correct the path",
        ) from None
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if entry.get("source", source.name) != source.name:
                continue
            id = str(entry["id"])
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(
                "a scores file has a faulty line",
                where=f"{path}, line {number}",
                why=f"not a JSON object with an id: {error}",
                fix="write it again with `ropewalk corpus score RECIPE FILE`",
            ) from None
        if id in scores:
            raise UserError(
                "a scores file has a document twice",
                where=f"{path}, line {number}",
                why=f"{id} is also in line {lines_of[id]}, and it is unclear which score is right",
                fix="keep one line for each id, or add `source` to each line",
            )
        scores[id], lines_of[id] = entry, number
    return scores


def _refuse_repeated(
    source: Source, documents: Sequence[Mapping[str, Any]], scores: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise UserError where several documents have the id of one score."""
    seen: set[str] = set()
    for document in documents:
        id = str(document["id"])
        if id in seen and id in scores:
            raise UserError(
                "one score belongs to several documents",
                where=f"source {source.name}: {source.scores}",
                why=f"more than one document has the id {id}",
                fix="give every record its own `id`, or give no record an id: then file and line identify it",
            )
        seen.add(id)
