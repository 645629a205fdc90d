"""All JSON that the program writes is JSON for every reader, and older files with ``Infinity`` are still read."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk.core.artifact import find_damage, is_finished, new_folder
from ropewalk.core.record import Metric, Score, append_metrics, read_metrics, read_scores, write_scores
from ropewalk.core.strict_json import spell_json

SOURCE = Path(__file__).parents[2] / "src" / "ropewalk"
LOOSE = {
    "core/strict_json.py": "it is the strict one",
    "corpus/read/chat_template.py": "the filter tojson gives the text that transformers gives",
    "corpus/read/turn.py": "text of a message",
    "corpus/read/rendered_strings.py": "strings alone, as templates render them",
    "corpus/read/loss_spans.py": "a string alone",
    "corpus/tokens/gigatoken.py": "a parser in this process reads it",
    "model/folder.py": "config.json keeps the base's spelling: transformers reads Infinity, and null differs",
    "checkpoint/streamed_writer.py": "places of tensors, in the header of a file",
    "model/guess_family.py": "a key in memory",
    "core/artifact.py": "a digest, which must be that of older manifests too",
    "recipe/key_table.py": "values of the recipe's defaults, for a page",
    "recipe/vary.py": "a value on a command line, which yaml reads",
    "recipe/fast_run.py": "a path on a command line",
    "parallel/flight_recorder.py": "a key in memory",
    "commands/plan_growth.py": "text of a message",
    "commands/new_recipe.py": "strings of a recipe",
    "commands/receipt_session.py": "a key in memory",
}
"""Files that may call ``json.dumps`` without ``allow_nan=False``, with the reason: no other program reads the text."""


def read_strictly(text: str) -> Any:
    """The value of ``text``. Raises ValueError for the three words that Python writes and JSON does not have."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_every_writer_is_strict() -> None:
    loose = set()
    for path in SOURCE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(call, ast.Call)
                and ast.unparse(call.func) in ("json.dumps", "json.dump", "dumps", "dump", "to_json")
                and not any(key.arg == "allow_nan" and ast.unparse(key.value) == "False" for key in call.keywords)
            ):
                loose.add(str(path.relative_to(SOURCE)))
    assert loose == set(LOOSE) - {"core/strict_json.py"}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, np.float64("inf")])
def test_a_number_that_is_none_is_null(value: float) -> None:
    nested = {"a": [1.5, value, {"b": (value, "x")}], "c": True, "d": {3: None}}
    assert read_strictly(spell_json(nested)) == {
        "a": [1.5, None, {"b": [None, "x"]}],
        "c": True,
        "d": {"3": None},
    }


def test_scores_are_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    one_document = Score("base", "nll/gap", "nats", 512, None, "en", 9, 1.5, -math.inf, math.inf, 1)
    usual = Score("base", "nll/gap", "nats", 512, 0.25, "en", 9, 1.5, 1.25, 2.0, 7, 1.5)
    broken = Score("base", "nll/gap", "nats", 512, None, "en", 9, math.nan, math.nan, math.nan, 1)
    write_scores(tmp_path / "scores.json", [one_document, usual, broken])
    assert [entry["low"] for entry in read_strictly((tmp_path / "scores.json").read_text())] == [None, 1.25, None]
    assert repr(read_scores(tmp_path / "scores.json")) == repr([one_document, usual, broken])
    older = json.dumps([{**entry, "low": -math.inf, "high": math.inf} for entry in [_fields(one_document)]])
    assert "Infinity" in older
    (tmp_path / "older.json").write_text(older)
    assert read_scores(tmp_path / "older.json") == [one_document]


def test_metrics_are_strict_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, [Metric(0, 1, "loss", math.nan, "nats"), Metric(0, 2, "loss", 2.5, "nats")])
    assert [read_strictly(line)["value"] for line in path.read_text().splitlines()] == [None, 2.5]
    with path.open("a") as file:
        file.write(json.dumps({**_fields(Metric(0, 3, "loss", math.inf, "nats"))}) + "\n")
    first, second, older = read_metrics(path)
    assert math.isnan(first.value) and second.value == 2.5 and older.value == math.inf


def test_a_manifest_is_strict_and_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "made", kind="test", inputs={"limit": math.inf}) as work:
        (work / "file").write_text("x")
    assert is_finished(tmp_path / "made") and find_damage(tmp_path / "made") is None
    assert read_strictly((tmp_path / "made" / "manifest.json").read_text())["inputs"] == {"limit": None}


def _fields(record: Score | Metric) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}
