"""What was written and does not read back is told by file and line, never as a traceback, and never left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ropewalk.checkpoint.save_record import read_saves
from ropewalk.core.error import UserError
from ropewalk.core.read_json import parse_written, read_written, read_written_lines
from ropewalk.core.record import Metric, append_metrics, read_metrics, read_scores
from ropewalk.core.run_folder import StageFolder
from ropewalk.evaluate.stage_gate import read_verdicts
from ropewalk.train.metrics_log import MetricsLog
from ropewalk.train.rollback import read_history

ROWS = [Metric(0, step, "loss/train", 2.0, "nats") for step in range(1, 6)]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.5e-7, -0.0, null, true, "é\\u4e2d\\ud83d\\ude00"], "a": 1e400}', '"\\ud800"', "NaN", "-0",
        "[" * 300 + "]" * 300, f"{10**400}", f"{2**64}", "5e-324", "", "{", "[1,]", "1" * 5000, '"\x01"',
    ],
)  # fmt: skip
def test_a_line_is_what_python_reads(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError as error:
        with pytest.raises(ValueError) as raised:
            parse_written(text.encode())
        assert str(raised.value) == str(error)
    else:
        read = parse_written(text.encode())
        assert (repr(read), type(read)) == (repr(value), type(value))


def test_a_line_that_is_not_wanted_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b'{"a": 1}\n{torn\n{"a": 2}\n')
    assert [*read_written_lines(tmp_path / "lines", wanted=lambda line: b"torn" not in line)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(UserError, match="line 2"):
        list(read_written_lines(tmp_path / "lines"))


@pytest.mark.parametrize(
    "broken",
    [
        b'{"stage": 0, "step": 2, "na\n',
        b"\n",
        b"[1, 2]\n",
        b'{"stage": 0, "step": 2, "name": "x", "value": 1.0}\n',
        b'{"stage": 0, "step": "2", "name": "x", "value": 1.0, "unit": "1"}\n',
        b'{"stage": 0, "step": 2, "name": "x", "value": "none", "unit": "1"}\n',
        b'{"stage": 0, "step": 2, "name": "\xff", "value": 1.0, "unit": "1"}\n',
        b"\0\0\0\0\n",
    ],
)
def test_a_broken_line_of_rows_is_named(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, ROWS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], broken, *lines[3:]]))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 3\n"):
        list(read_metrics(path))
    with pytest.raises(UserError, match="line 3"):
        MetricsLog(path, writes=True).rewind(0, 5)
    assert path.read_bytes().count(b"\n") == 5, "nothing was dropped"
    path.write_bytes(b"".join([*lines, broken.rstrip(b"\n")]))
    assert list(read_metrics(path)) == ROWS, "a last line without its end is what a kill leaves"


def read_factors(path: Path) -> Any:
    return read_written(path, lambda content: tuple(content["factors"]))


@pytest.mark.parametrize("read", [read_scores, read_verdicts, read_factors], ids=lambda read: read.__name__)
@pytest.mark.parametrize("content", ['[\n{"a": 1},\n{"b"', "7", '[{"model": "base"}]', "[null]"])
def test_a_broken_file_is_named(tmp_path: Path, read: Callable[[Path], Any], content: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"file\.json" + (", line 3" if content.endswith('"b"') else "")):
        read(path)


def test_notes_of_a_stage_are_named_too(tmp_path: Path) -> None:
    for name, read in (
        ("rollbacks.json", lambda folder: read_history(StageFolder(folder))),
        ("saves.json", lambda folder: read_saves(folder / "c")),
    ):
        (tmp_path / name).write_text("{")
        with pytest.raises(UserError, match=name):
            read(tmp_path)
    (tmp_path / "saves.json").write_text(json.dumps({"begun": 4, "saved": None}))
    assert read_saves(tmp_path / "checkpoints") == (4, None)


def test_the_last_line_of_a_whole_file_is_complete(tmp_path: Path) -> None:
    (path := tmp_path / "documents.jsonl").write_text('{"a": 1}\n{"a": 2')
    assert list(read_written_lines(path)) == [{"a": 1}], "a kill left it in a file that is appended to"
    with pytest.raises(UserError, match=r"documents\.jsonl, line 2"):
        list(read_written_lines(path, appended=False))
