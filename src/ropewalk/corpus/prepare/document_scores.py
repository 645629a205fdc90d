"""Values of documents by column name, and the selection of long documents by these values.

A value comes from the measures that cleaning records, or by document id from a file that a model wrote
(evaluate/length_gain). The selection is stored as indices, since users often change it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ropewalk.core.error import UserError
from ropewalk.core.progress import warn
from ropewalk.core.quantity import format_count
from ropewalk.core.seed import seed_for
from ropewalk.corpus.prepare.document_records import DocumentRecords
from ropewalk.corpus.prepare.tokenized import Tokenized
from ropewalk.corpus.selection_rules import Selection
from ropewalk.corpus.spec import Source

_FULL_WEIGHT = 95
_SHOWN = 5
_BELOW, _ABOVE, _DRAWN = 1, 2, 3
_LENGTHS = 64


@dataclass(frozen=True)
class Picked:
    """Which documents of a source are not trained on, by its ``select`` rules, and why.

    ``examples``: the best and worst documents, by column.
    """

    unfit: Int64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Document numbers, ascending. The next lists have an entry for each of them."""
    rules: Sequence[Selection] = ()
    rule: Int64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    sort: Int64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    value: Float64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0))
    bound: Float64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0))
    """The threshold that the value misses, or the probability of a drawn document."""
    examples: Mapping[str, Mapping[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def explain(self, document: int) -> str:
        """Why an unfit document is not trained on."""
        at = int(np.searchsorted(self.unfit, document))
        rule, sort, value, bound = self.rules[self.rule[at]], self.sort[at], self.value[at], self.bound[at]
        if sort == _DRAWN:
            return f"{rule.column} {value:.4g} gave the document a probability of {bound:.0%}"
        where = "" if rule.band is None else ", of its language and length"
        limit = f"{bound:g}" if rule.band is None else f"{bound:.4g}"
        return f"{rule.column} {value:.4g} {'below' if sort == _BELOW else 'above'} {limit}{where}"


def pick_documents(source: Source, stored: Tokenized, documents: DocumentRecords) -> Picked:
    """Apply the ``select`` rules of a source to its stored documents.

    Raises UserError for a column that no document has.
    """
    if not source.select:
        return Picked()
    columns, draws = _read_columns(source, documents)
    count = len(documents)
    which, sort = np.full(count, -1), np.zeros(count, dtype=np.int64)
    value, bound = np.zeros(count), np.zeros(count)
    examples: dict[str, Mapping[str, list[dict[str, Any]]]] = {}
    for number, rule in enumerate(source.select):
        values = columns[number]
        applies = _applies(rule, stored) & ~np.isnan(values)
        if count and not applies.any():
            warn(
                f"warning: source {source.name}: select {rule.column} judges none of "
                f"{format_count(count, 'document')}: they are "
                f"shorter than from_tokens {rule.from_tokens:,}, or beyond to_tokens or language"
            )
        cells = _cells(stored) if rule.band is not None else None
        for kind, missed, bounds in _faults(rule, values, draws[number], applies, cells):
            new = applies & missed & (which < 0)
            which[new], sort[new], value[new], bound[new] = number, kind, values[new], bounds[new]
        examples[rule.column] = _best_and_worst(values, applies, documents)
    unfit = np.flatnonzero(which >= 0)
    return Picked(unfit, source.select, which[unfit], sort[unfit], value[unfit], bound[unfit], examples)


def _read_columns(
    source: Source, documents: DocumentRecords
) -> tuple[list[Float64[np.ndarray, "documents"]], list[Float64[np.ndarray, "documents"]]]:
    """For each rule the value of each document, and the number from 0 to 1 that decides for it if the rule weighs."""
    scores, seen = _read_scores(source), set[str]()
    columns = [np.full(len(documents), np.nan) for _ in source.select]
    draws = [np.zeros(len(documents)) for _ in source.select]
    for number, document in enumerate(documents):
        id = str(document["id"])
        own = scores.get(id)
        if own is not None:
            _refuse_repeated(source, id, seen)
        for rule, values, drawn in zip(source.select, columns, draws, strict=True):
            known = {**(document["measures"] or {}), **document.get("scores", {}), **(own or {})}
            found = known.get(rule.column)
            values[number] = math.nan if found is None else float(found)
            drawn[number] = seed_for("select", rule.column, id) / 2**63 if rule.weigh else 0.0
    for rule, values in zip(source.select, columns, strict=True):
        if np.isnan(values).all():
            _refuse_column(source, rule)
    return columns, draws


def _refuse_column(source: Source, rule: Selection) -> None:
    raise UserError(
        "no document has the column that `select` uses",
        where=f"source {source.name}: select {rule.column}",
        why=f"neither {source.scores or 'a scores file (none is named)'} nor the measures of long texts contain it; "
        f"`score` of this source makes {', '.join(source.score.columns) if source.score else 'none'}",
        fix="give the file that `ropewalk corpus score RECIPE FILE` wrote as `scores` of the source, or select "
        "another column",
    )


def _faults(
    rule: Selection,
    values: Float64[np.ndarray, "documents"],
    draws: Float64[np.ndarray, "documents"],
    applies: Bool[np.ndarray, "documents"],
    cells: Int64[np.ndarray, "documents"] | None,
) -> Iterator[tuple[int, Bool[np.ndarray, "documents"], Float64[np.ndarray, "documents"]]]:
    """Yield the sort of fault, the documents that have it, and the bound of each document."""
    if rule.at_least is not None:
        yield _BELOW, values < rule.at_least, np.full(len(values), rule.at_least)
    if rule.at_most is not None:
        yield _ABOVE, values > rule.at_most, np.full(len(values), rule.at_most)
    if rule.band is not None and cells is not None:
        low, high = _find_band(rule.band, values, applies, cells)
        yield _BELOW, values < low, low
        yield _ABOVE, values > high, high
    if rule.weigh and applies.any():
        full = float(np.percentile(values[applies], _FULL_WEIGHT))
        chance = np.maximum(0.0, values / full) if full > 0 else np.ones(len(values))
        yield _DRAWN, draws >= chance, chance


def _applies(rule: Selection, stored: Tokenized) -> Bool[np.ndarray, "documents"]:
    """Whether a rule judges each document, by its length and language."""
    tokens = stored.tokens
    applies = tokens >= rule.from_tokens
    if rule.to_tokens is not None:
        applies &= tokens < rule.to_tokens
    if rule.language is not None:
        applies &= np.array([name == rule.language for name in stored.languages], dtype=bool)[stored.language]
    return applies


def _cells(stored: Tokenized) -> Int64[np.ndarray, "documents"]:
    """A number for the language and the length of each document. A length reaches from a power of two to the next."""
    length = np.frexp(np.maximum(stored.tokens, 1).astype(np.float64))[1]
    return np.asarray(stored.language * _LENGTHS + length, dtype=np.int64)


def _find_band(
    band: tuple[float, float],
    values: Float64[np.ndarray, "documents"],
    applies: Bool[np.ndarray, "documents"],
    cells: Int64[np.ndarray, "documents"],
) -> tuple[Float64[np.ndarray, "documents"], Float64[np.ndarray, "documents"]]:
    """The least and the largest value that each document may have: percentiles of the documents of its cell."""
    low, high = np.full(len(values), -np.inf), np.full(len(values), np.inf)
    for cell in np.unique(cells[applies]).tolist():
        own = applies & (cells == cell)
        low[own], high[own] = np.percentile(values[own], band)
    return low, high


def _best_and_worst(
    values: Float64[np.ndarray, "documents"], applies: Bool[np.ndarray, "documents"], documents: DocumentRecords
) -> dict[str, list[dict[str, Any]]]:
    numbers = np.flatnonzero(applies)
    order = numbers[np.argsort(values[numbers], kind="stable")].tolist()

    def show(chosen: Sequence[int]) -> list[dict[str, Any]]:
        records = [(number, documents.read(number)) for number in chosen]
        return [{"id": record["id"], "value": float(values[n]), "text": record["text"]} for n, record in records]

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


def _refuse_repeated(source: Source, id: str, seen: set[str]) -> None:
    """Raise UserError where a document has the id of an earlier one that has a score. ``seen``: such ids so far."""
    if id in seen:
        raise UserError(
            "one score belongs to several documents",
            where=f"source {source.name}: {source.scores}",
            why=f"more than one document has the id {id}",
            fix="give every record its own `id`, or give no record an id: then file and line identify it",
        )
    seen.add(id)
