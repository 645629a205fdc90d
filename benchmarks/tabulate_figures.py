"""The tables of docs/attention-figures.md from what attention.py and step.py printed.

    python benchmarks/tabulate_figures.py RESULTS.jsonl

A line of the results is a row of the table, a ratio that misses what it must reach is marked, and an absent peer has
none. ``limit`` is what the machine allows in the unit of the row: arithmetic at the measured rate, for scaling what
independent jobs reach.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HEAD = "| case | against | ours | theirs | ratio | must reach | limit |\n|---|---|---|---|---|---|---|"


def tabulate(results: Path) -> Iterator[str]:
    """Rows of the table, without its head."""
    for line in results.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "case" in row:
            yield _row(row)


def _row(row: Mapping[str, Any]) -> str:
    unit, ratio, must = row["unit"], row["ratio"], row["must_reach"]
    ours, theirs = (_figure(row[side], unit) for side in ("ours", "theirs"))
    reached = "" if ratio is None else f"{ratio:.2f}" if ratio >= must else f"**{ratio:.2f}**"
    cells = [row["case"], row["peer"], ours, theirs, reached, f"{must:g}", _limit(row)]
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:,} {unit}" if isinstance(value, int) else f"{value:,.5g} {unit}"


def _limit(row: Mapping[str, Any]) -> str:
    limit = row.get("limit", row.get("limit_ms"))
    if limit is None:
        return ""
    if not isinstance(limit, Mapping):
        return f"{limit:,.4g} {row['unit']}"
    if "independent_jobs" in limit:
        return f"{limit['independent_jobs']:.2f}"
    return f"{limit['arithmetic_ms']:,.4g} ms" + (f" + {limit['link_ms']:.2g} ms link" if limit["link_ms"] else "")


if __name__ == "__main__":
    print(HEAD, *tabulate(Path(sys.argv[1])), sep="\n")
