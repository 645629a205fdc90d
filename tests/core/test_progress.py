"""A bar on a terminal with its note below, lines in a log, events for programs; --quiet shows warnings alone."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ropewalk.core import progress
from ropewalk.core.events import emit, open_events
from ropewalk.core.progress import say, say_once, set_quiet, warn, watch
from ropewalk.core.translate import set_language

SRC = Path(progress.__file__).parents[1]
SHOWN = """
from ropewalk.core.progress import watch
with watch("stage 0", 4, unit="steps") as advance:
    for _ in range(4):
        advance(1, note="loss 3.21  MFU 41%", left_seconds=7980)
"""


@pytest.mark.parametrize(
    ("language", "left", "note"),
    [("en", "2 h 13 min left", "loss 3.21  MFU 41%"), ("zh", "剩余 2 h 13 min", "损失 3.21  MFU 41%")],
)
def test_a_terminal_has_a_bar_and_the_note_below(language: str, left: str, note: str) -> None:
    ours, theirs = pty.openpty()
    speak = f"from ropewalk.core.translate import set_language; set_language({language!r})"
    subprocess.run([sys.executable, "-c", speak + SHOWN], stderr=theirs, check=True)
    os.close(theirs)
    seen = b""
    while chunk := read(ours):
        seen += chunk
    last = seen.decode().rpartition("4/4")[2]
    assert left in last and f"\n{note}" in last, seen


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux ends a terminal so
        return b""


def test_what_was_done_before_counts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
    with watch("stage 0", 4, unit="steps", before=2) as advance:
        advance(1, left_seconds=1)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "stage 0: 3 of 4 steps, 1 s left" and said[1].startswith("stage 0: 1 step in")


def test_what_holds_more_than_was_foreseen_has_no_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
    with watch("book.zst", 10, unit="MB of text") as advance:
        advance(10)
        advance(30)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "book.zst: 10 of 10 MB of text, 0 s left"
    assert said[1] == "book.zst: 40 MB of text, 10 were expected"


@pytest.mark.parametrize("name", ["own", "model: retrieval/key_value", "book.zst"])
def test_a_line_in_chinese_keeps_its_name_in_front(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name without words of ours once became a part of the amount: ``10 个 token 中的 own: 9 个``."""
    monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
    set_language("zh")
    with watch(name, 10, unit="tokens") as advance:
        advance(9, left_seconds=2)
    set_language("en")
    assert capsys.readouterr().err.splitlines()[0] == f"{name}：10 个 token 中的 9 个，剩余 2 s"


def test_a_bar_that_is_passed_has_no_time_left() -> None:
    ours, theirs = pty.openpty()
    code = SHOWN.replace("range(4)", "range(9)").replace(", left_seconds=7980", "")
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    os.close(theirs)
    seen = b""
    while chunk := read(ours):
        seen += chunk
    last = seen.decode().rpartition("stage 0")[2]
    assert "9/?" in last and "0:00" not in last, last


def test_a_log_has_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_FIRST_SECONDS", 0.0)
    with watch("stage 0", 4, unit="steps") as advance:
        advance(1, note="loss 3.21", left_seconds=7980)
        advance(1)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "stage 0: 1 of 4 steps, 2 h 13 min left  loss 3.21"
    assert said[1].startswith("stage 0: 2 of 4 steps, ") and "0 s left" in said[1] and "2 steps in" in said[2]


def test_a_log_has_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with watch("stage 0", 300, unit="steps") as advance:
        for _ in range(300):
            now[0] += 1
            advance()
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in said[:-1]] == ["5", "65", "125", "185", "245"], said


def test_quiet_shows_warnings_alone_and_events_tell_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: (set_quiet(False), open_events(None)))
    open_events(tmp_path / "events.jsonl")
    set_quiet(True)
    say("== train")
    with watch("stage 0", 2, unit="steps") as advance:
        advance(1, note="loss 3.21", left_seconds=4)
        advance()
    warn("warning: lr: too large")
    assert capsys.readouterr().err.splitlines() == ["warning: lr: too large"]
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [each["event"] for each in told] == ["said", "begun", "progress", "finished", "said"]
    assert told[2]["done"] == 1 and told[2]["left_seconds"] == 4 and told[2]["note"] == "loss 3.21"
    assert told[3]["done"] == 2 and all(each["process"] == os.getpid() for each in told)


def test_every_line_that_begins_with_warning_is_one_that_quiet_does_not_keep_back() -> None:
    kept_back = [
        f"{path.name}:{text[: found.start()].count(chr(10)) + 1}"
        for path in SRC.rglob("*.py")
        for text in [path.read_text()]
        for found in re.finditer(r"""\bsay\(\s*f?["']WARNING""", text)
    ]
    assert kept_back == []


def test_events_are_strict_json_and_go_on_after_half_a_line(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: open_events(None))
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "said"}\n{"event": "be')
    open_events(path)
    emit("result", loss=float("nan"), interval=(1.0, float("inf")), by={3: float("-inf")}, where=tmp_path)
    open_events(path)
    emit("ended", code=0)
    *_, half, result, ended = path.read_text().splitlines()
    assert half == '{"event": "be' and json.loads(ended)["code"] == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    told = json.loads(result, parse_constant=refuse)
    assert (told["loss"], told["interval"], told["by"]) == (None, [1.0, None], {"3": None})
    assert told["where"] == str(tmp_path)


def test_what_all_ranks_find_is_told_by_the_first_and_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Ranks are forked twice, as for two parts of a run: what the first ranks told is not told by the later ones."""
    from ropewalk.parallel.launch import run_ranks

    for _ in range(2):
        run_ranks(lambda: say_once("a library is not used"), 2)
    say_once("a library is not used")
    say_once("another is")
    assert capfd.readouterr().err.splitlines() == ["a library is not used", "another is"]


def test_a_full_memory_of_lines_loses_no_line() -> None:
    told = progress._Told()
    lines = [str(number) for number in range(1000)]
    assert all(told.add(line) for line in lines) and not told.add("0") and told.add("999")
    told.clear()
    assert told.add("0")
