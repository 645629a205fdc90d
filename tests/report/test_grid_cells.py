"""The section about position, filler and length: all three axes, with intervals, for every model."""

import json
import re
from dataclasses import asdict
from itertools import product
from pathlib import Path

import yaml

from invented_run import RECIPE
from ropewalk.core.record import Score
from ropewalk.recipe.load import load_recipe
from ropewalk.report import page
from ropewalk.report.contents import read_run
from ropewalk.report.grid_cells import make_grid
from ropewalk.report.outcomes import make_retrieval


def write_grid(run: Path) -> Path:
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(load_recipe(RECIPE).to_json(), allow_unicode=True))
    scores = []
    for model, task, filler, tokens in product(
        ("base", "extended"), ("lookup", "two_hops"), ("words", "facts"), (512, 4096)
    ):
        name = f"grid/{task}/{filler}"
        for depth, right in ((None, 0.6), (0.25, 0.9), (0.75, 0.3)):
            right *= 1 if model == "extended" else 0.5
            shape = (tokens, depth, "en", 40, right, right - 0.1, right + 0.1, 20)
            scores += [Score(model, name, "accuracy", *shape), Score(model, f"answer_loss/{name}", "nats", *shape)]
    (run / "scores.json").write_text(json.dumps([asdict(score) for score in scores]))
    return run


def test_rows_cells_and_maps_have_all_three_axes(tmp_path: Path) -> None:
    section = make_grid(read_run(write_grid(tmp_path / "run")))
    assert section is not None
    rows, cells = section.tables
    assert rows.columns == ["task", "filler", "context", "samples", "base", "extended"] and len(rows.rows) == 8
    assert list(rows.rows[0]) == [
        "lookup", "facts", "512", "20", "30 %\n[20, 40]\n0.30 nats", "60 %\n[50, 70]\n0.60 nats",
    ]  # fmt: skip
    assert cells.columns == ["task", "filler", "context", "25%", "75%"] and len(cells.rows) == 8
    assert list(cells.rows[-1]) == [
        "two hops", "words", "4Ki", "90 %\n[80, 100]\n0.90 nats", "30 %\n[20, 40]\n0.30 nats",
    ]  # fmt: skip
    maps = [re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg) for picture in section.pictures]
    assert len(maps) == 2 and all({"base", "extended", "4Ki*", "25%", "90", "15"} <= set(words) for words in maps)


def test_the_grid_is_no_retrieval_and_a_run_without_it_has_no_section(tmp_path: Path) -> None:
    run = write_grid(tmp_path / "run")
    assert make_grid in page._SECTIONS and make_retrieval(read_run(run)).note == "Retrieval has not been measured yet."
    (run / "scores.json").unlink()
    assert make_grid(read_run(run)) is None
