"""Into the pages, between their marks: the tables of what benchmarks/readers.py printed.

    python benchmarks/tabulate_readers.py RESULTS.jsonl

A figure is the largest norm-relative difference of logits from ours. A test holds the pages against the results.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from page_tables import write_tables

LOADER = "ropewalk.model.load.load_model"


def main(results: str) -> None:
    """Write every table into its page."""
    for page, (mark, tabulate) in TABLES.items():
        write_tables(Path(__file__).parents[1] / "docs" / page, tabulate(Path(results)), mark)


def tabulate_architectures(results: Path) -> str:
    """Method x architecture in this environment: by plain transformers, else by our loader."""
    rows = _read_rows(results)
    ours = [row for row in rows if row["peer"] in (rows[0]["peer"], LOADER, "ropewalk")]
    return _make_table(ours, "architecture", lambda name: name.removesuffix("ForCausalLM"), _reload)


def tabulate_readers(results: Path) -> str:
    """Method x reader, over all architectures."""
    rows = [row for row in _read_rows(results) if row["peer"] not in ("ropewalk", LOADER)]
    return _make_table(rows, "peer", lambda name: name, _read)


TABLES = {"rope-composition.md": ("architectures", tabulate_architectures), "export.md": ("readers", tabulate_readers)}


def _read_rows(results: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in results.read_text().splitlines()][1:]  # the first line names the machine
    return [row | dict(zip(("architecture", "method"), row["case"].split(", ", 1), strict=True)) for row in rows]


def _make_table(
    rows: list[dict[str, Any]],
    column: str,
    title: Callable[[str], str],
    cell: Callable[[Iterable[Mapping[str, Any]]], str],
) -> str:
    columns = list(dict.fromkeys(row[column] for row in rows))
    lines = [f"| method | {' | '.join(map(title, columns))} |", f"|---|{'---|' * len(columns)}"]
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [[row for row in rows if (row["method"], row[column]) == (method, name)] for name in columns]
        lines.append(f"| {method} | {' | '.join(cell(each) for each in found)} |")
    return "\n".join(lines)


def _reload(rows: Iterable[Mapping[str, Any]]) -> str:
    """Plain transformers where it loads the folder, else our loader."""
    by_peer = {row["peer"]: row for row in rows}
    if not by_peer or "ropewalk" in by_peer:
        return "not offered"
    plain = next(row for peer, row in by_peer.items() if peer != LOADER)
    if plain["verdict"] == "refuses loudly":
        return f"{_tell(by_peer[LOADER]['difference'])} (ours)"
    return _tell(plain["difference"])


def _read(rows: Iterable[Mapping[str, Any]]) -> str:
    """What a reader makes of a method on most architectures, and of which it makes something else."""
    by_verdict: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_verdict.setdefault(row["verdict"], []).append(row)
    words = []
    for verdict, those in sorted(by_verdict.items(), key=lambda item: -len(item[1])):
        figure = "" if verdict == "refuses loudly" else f" ({_tell(max(row['difference'] for row in those))})"
        names = ", ".join(row["architecture"].removesuffix("ForCausalLM") for row in those)
        words.append(f"{names}: {verdict}{figure}" if words else f"{verdict}{figure}")
    return "; ".join(words)


def _tell(difference: float) -> str:
    return "0" if difference == 0 else f"{difference:.0e}".replace("e-0", "e-")


if __name__ == "__main__":
    main(*sys.argv[1:])
