"""Values of documents by column name, and the selection of long documents by these values.

A value comes from the measures that cleaning records, or by document id from a file that a model wrote
(evaluate/length_gain). The selection is stored as indices, since users often change it.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ropewalk.core.error import UserError
from ropewalk.core.progress import warn
from ropewalk.core.quantity import format_count, is_finite
from ropewalk.core.seed import seed_for
from ropewalk.corpus.dedup.rank_selected import LeftOut
from ropewalk.corpus.prepare.document_records import DocumentRecords
from ropewalk.corpus.prepare.tokenized import Tokenized
from ropewalk.corpus.prepare.value_pages import Bound, describe_column
from ropewalk.corpus.selection_rules import SCORES, Selection
from ropewalk.corpus.spec import Source

_FULL_WEIGHT = 95
_BELOW, _ABOVE, _DRAWN = 1, 2, 3
_LENGTHS = 64


@dataclass(frozen=True)
class Picked:
    """Which documents of a source are not trained on, by its ``select`` rules, and why."""

    unfit: Int64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Document numbers, ascending. The next lists have an entry for each of them."""
    rules: Sequence[Selection] = ()
    rule: Int64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    sort: Int64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    value: Float64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0))
    bound: Float64[np.ndarray, "unfit"] = field(default_factory=lambda: np.empty(0))
    """The threshold that the value misses, or the probability of a drawn document."""
    unjudged: Int64[np.ndarray, "unjudged"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Numbers of the documents that a rule applies to and that have no value for it, ascending."""
    columns: Sequence[dict[str, Any]] = ()
    """The distribution of each column, with examples (value_pages.py): those of the rules, then other scores."""

    @property
    def left_out(self) -> LeftOut:
        """What decides which of its copies stays."""
        return LeftOut(self.unfit[self.sort != _DRAWN], self.unfit[self.sort == _DRAWN], self.unjudged)

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
    names = _name_columns(source)
    if source.scores is not None and not source.select:
        warn(f"warning: source {source.name}: scores {source.scores} is not read: no rule of `select` uses it")
    if not names:
        return Picked()
    columns, draws = _read_columns(source, names, documents)
    count = len(documents)
    which, sort = np.full(count, -1), np.zeros(count, dtype=np.int64)
    value, bound, unknown = np.zeros(count), np.zeros(count), np.zeros(count, dtype=bool)
    judged = {rule.column: np.zeros(count, dtype=bool) for rule in source.select}
    thresholds: dict[str, list[Bound]] = {name: [] for name in names}
    for number, rule in enumerate(source.select):
        values = columns[rule.column]
        applies = _applies(rule, stored)
        unknown |= applies & np.isnan(values)
        applies &= ~np.isnan(values)
        if count and not applies.any():
            warn(
                f"warning: source {source.name}: select {rule.column} judges none of "
                f"{format_count(count, 'document')}: they are "
                f"shorter than from_tokens {rule.from_tokens:,}, or beyond to_tokens or language"
            )
        cells = _cells(stored) if rule.band is not None else None
        judged[rule.column] |= applies
        for kind, missed, bounds in _faults(rule, values, draws[rule.column], applies, cells):
            new = applies & missed & (which < 0)
            which[new], sort[new], value[new], bound[new] = number, kind, values[new], bounds[new]
            if kind != _DRAWN:
                thresholds[rule.column].append((_name_bound(rule, kind), np.where(applies, bounds, np.nan)))
    pages = [
        describe_column(name, columns[name], judged.get(name, ~np.isnan(columns[name])), thresholds[name], documents)
        for name in names
    ]
    unfit, unjudged = np.flatnonzero(which >= 0), np.flatnonzero(unknown)
    return Picked(unfit, source.select, which[unfit], sort[unfit], value[unfit], bound[unfit], unjudged, pages)


def _name_columns(source: Source) -> list[str]:
    """The columns that rules use, then those that the source's ``score`` makes beside them."""
    made = source.score.columns if source.score else ()
    return [*dict.fromkeys([*(rule.column for rule in source.select), *made])]


def _name_bound(rule: Selection, kind: int) -> str:
    if rule.band is not None and rule.at_least is None and rule.at_most is None:
        return f"percentile {rule.band[kind == _ABOVE]:g} of its language and length"
    return "at_least" if kind == _BELOW else "at_most"


def _read_columns(
    source: Source, names: Sequence[str], documents: DocumentRecords
) -> tuple[dict[str, Float64[np.ndarray, "documents"]], dict[str, Float64[np.ndarray, "documents"]]]:
    """For each column the value of each document, and the number from 0 to 1 that decides for it if a rule weighs."""
    scores, seen = _read_scores(source, names), set[str]()
    id: str | None = None
    columns = {name: np.full(len(documents), np.nan) for name in names}
    draws = {name: np.zeros(len(documents)) for name in names}
    weighed = {rule.column for rule in source.select if rule.weigh}
    for number, document in enumerate(documents):
        id = str(document["id"])
        own = scores.get(id)
        if own is not None:
            _refuse_repeated(source, id, seen)
        known = {**(document["measures"] or {}), **document.get("scores", {}), **(own or {})}
        for name in names:
            found = known.get(name)
            columns[name][number] = math.nan if found is None else float(found)
            if name in weighed:
                draws[name][number] = seed_for("select", name, id) / 2**63
    if scores and not seen and id is not None:
        _refuse_ids(source, id, next(iter(scores)))
    for rule in source.select:
        if np.isnan(columns[rule.column]).all():
            _refuse_column(source, rule)
    return columns, draws


def _refuse_ids(source: Source, id: str, scored: str) -> None:
    raise UserError(
        "a scores file has no document of the source",
        where=f"source {source.name}: scores {source.scores}",
        why=f"no id of the file is the id of a document: the file has {scored!r:.80}, and the source {id!r:.80}",
        fix="write the file with the ids of `documents.jsonl` in the source's folder of the store, as `ropewalk corpus "
        "score RECIPE FILE` does",
    )


def _refuse_column(source: Source, rule: Selection) -> None:
    makes = "`score` of this source makes " + (", ".join(source.score.columns) if source.score else "none")
    if rule.column in SCORES:
        fix = f"add `score` with {rule.column} to the source: docs/corpus-cleaning.md"
    else:
        fix = (
            "give the file that `ropewalk corpus score RECIPE FILE` wrote as `scores` of the source, or select another "
            "column, such as gzip with `score: gzip`"
        )
    raise UserError(
        "no document has the column that `select` uses",
        where=f"source {source.name}: select {rule.column}",
        why=f"neither {source.scores or 'a scores file (none is named)'} nor the measures of long texts contain it; "
        f"{makes}",
        fix=fix,
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
        low[own], high[own] = np.percentile(values[own], band, method="hazen")  # else 20 to 80 keeps none of two
    return low, high


def _read_scores(source: Source, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The values of the columns ``names`` in the scores file of a source, by id. Other values are not kept."""
    if source.scores is None:
        return {}
    path = Path(source.scores)
    scores: dict[str, dict[str, Any]] = {}
    lines_of: dict[str, int] = {}
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(
            "a scores file cannot be read",
            where=f"source {source.name}: {path}",
            why=error.strerror or str(error),
            fix="run `ropewalk corpus score RECIPE FILE`, or correct the path",
        ) from None
    with file:
        for number, line in enumerate(file, 1):
            id, entry = _parse_score(line, source, f"{path}, line {number}")
            if id is None:
                continue
            if id in scores:
                raise UserError(
                    "a scores file has a document twice",
                    where=f"{path}, line {number}",
                    why=f"{id} is also in line {lines_of[id]}, and it is unclear which score is right",
                    fix="keep one line for each id, or add `source` to each line",
                )
            scores[id], lines_of[id] = {name: entry[name] for name in names if name in entry}, number
            for name, value in scores[id].items():
                _check_value(name, value, f"{path}, line {number}")
    return scores


def _check_value(name: str, value: Any, where: str) -> None:
    """Raise UserError where a score is not a number. None and NaN are no score."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    if not missing and not is_finite(value):
        raise UserError(
            "a score is no number",
            where=where,
            why=f"{name} is {value!r:.80}",
            fix="write a finite number, or null where a document has no score",
        )


def _parse_score(line: bytes, source: Source, where: str) -> tuple[str | None, dict[str, Any]]:
    """The id and the values of a line; no id for a line of another source."""
    try:
        entry = json.loads(line)
        if entry.get("source", source.name) != source.name:
            return None, {}
        return str(entry["id"]), entry
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            "a scores file has a faulty line",
            where=where,
            why=f"not a JSON object with an id: {error}",
            fix="write it again with `ropewalk corpus score RECIPE FILE`",
        ) from None


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
