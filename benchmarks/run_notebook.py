"""The cells of the notebook in order, in one process: it must end within five minutes on a CPU.

    python benchmarks/run_notebook.py [--notebook examples/stretch.ipynb] [--out FILE]

The cells work in the present folder, as in Jupyter, and pictures are drawn but not shown. Prints one JSON line with the
seconds of each cell, and ends with 1 where a cell fails or the notebook takes longer.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

from ropewalk.core.versions import find_versions

MOST_SECONDS = 300.0


def read_cells(notebook: Path) -> list[str]:
    """The source of each cell of code, in order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notebook", type=Path, default=Path("examples/stretch.ipynb"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    matplotlib.use("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    seconds = []
    for number, source in enumerate(read_cells(asked.notebook)):
        begun = time.monotonic()
        exec(compile(source, f"{asked.notebook}, cell {number}", "exec"), names)
        seconds.append(round(time.monotonic() - begun, 1))
    found = {
        "case": "notebook",
        "seconds": round(sum(seconds), 1),
        "must_reach": MOST_SECONDS,
        "cells": seconds,
        "cores": os.cpu_count(),
        "versions": find_versions(("ropewalk", "torch", "transformers")),
    }
    print(json.dumps(found))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(int(found["seconds"] > MOST_SECONDS))


if __name__ == "__main__":
    main()
