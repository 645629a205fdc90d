"""The tables of docs/export.md, out of what benchmarks/readers.py printed.

    python benchmarks/tabulate_readers.py RESULTS.jsonl

A cell is the largest norm-relative difference of logits from ours. Prints Markdown; a test holds the page against it.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

LOADER = "ropewalk.model.load.load_model"


def main(results: str) -> None:
    """Print both tables."""
    print(tabulate(Path(results)))


def tabulate(results: Path) -> str:
    """Method x architecture in this environment, and method x reader over all architectures, as Markdown."""
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    rows = [row | dict(zip(("architecture", "method"), row["case"].split(", ", 1), strict=True)) for row in rows[1:]]
    peers = list(dict.fromkeys(row["peer"] for row in rows if row["peer"] != "ropewalk"))
    ours = [row for row in rows if row["peer"] in (peers[0], LOADER, "ropewalk")]
    architectures = _make_table(ours, "architecture", lambda name: name.removesuffix("ForCausalLM"), _reload)
    return "\n".join(
        [*architectures, "", *_make_table(rows, "peer", lambda name: name, _read, skip=("ropewalk", LOADER))]
    )


def _make_table(
    rows: list[dict[str, Any]],
    column: str,
    title: Callable[[str], str],
    cell: Callable[[Iterable[Mapping[str, Any]]], str],
    skip: tuple[str, ...] = (),
) -> list[str]:
    columns = [name for name in dict.fromkeys(row[column] for row in rows) if name not in skip]
    lines = [f"| method | {' | '.join(map(title, columns))} |", f"|---|{'---|' * len(columns)}"]
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [[row for row in rows if (row["method"], row[column]) == (method, name)] for name in columns]
        lines.append(f"| {method} | {' | '.join(cell(each) for each in found)} |")
    return lines


def _reload(rows: Iterable[Mapping[str, Any]]) -> str:
    """Plain transformers where it loads the folder, else our loader."""
    by_peer = {row["peer"]: row for row in rows}
    if not by_peer or "ropewalk" in by_peer:
        return "not offered"
    plain = next(row for peer, row in by_peer.items() if peer != LOADER)
    if plain["verdict"] == "refuses loudly":
        return f"{by_peer[LOADER]['difference']:.0e}, our loader"
    return f"{plain['difference']:.0e}"


def _read(rows: Iterable[Mapping[str, Any]]) -> str:
    """What a reader makes of a method: one word, or each architecture's if they differ."""
    by_verdict: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_verdict.setdefault(row["verdict"], []).append(row)
    words = []
    for verdict, those in by_verdict.items():
        worst = max((row.get("difference", 0.0) for row in those), default=0.0)
        names = ", ".join(row["architecture"].removesuffix("ForCausalLM") for row in those)
        figure = "" if verdict == "refuses loudly" else f" ({worst:.0e})"
        words.append(f"{verdict}{figure}{f': {names}' if len(by_verdict) > 1 else ''}")
    return "; ".join(words)


if __name__ == "__main__":
    main(*sys.argv[1:])
