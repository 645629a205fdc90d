"""Written answers and loss by context in a report: a table by length with intervals, nothing where not measured."""

from dataclasses import replace
from pathlib import Path

from ropewalk.core.record import Score, read_scores, write_scores
from ropewalk.report import page
from ropewalk.report.contents import Contents, read_run
from ropewalk.report.context_losses import make_context_losses
from ropewalk.report.written import make_written


def add(run: Path, *scores: Score) -> Contents:
    write_scores(run / "scores.json", [*read_scores(run / "scores.json"), *scores])
    return read_run(run)


def test_written_answers_stand_by_length_with_intervals(run: Path) -> None:
    assert make_written(read_run(run)) is None
    whole = Score("base", "benchmark/mine/zh/8k", "score", 2048, None, "zh", 40, 0.25, 0.14, 0.4, 40, 1.0)
    cut = replace(whole, task="benchmark/mine/cut", metric="share", value=0.1, low=0.1, high=0.1)
    reach = replace(whole, task="ruler/effective_length", metric="tokens", value=1024, low=512, high=2048)
    section = make_written(add(run, whole, replace(whole, model="extended", value=0.35), cut, reach))
    assert section is not None
    ruler, benchmarks = section.tables
    assert ruler.rows[0][3] == "1Ki\n[512, 2Ki]"
    assert benchmarks.rows == [
        ["mine/zh/8k", "2Ki", "40", "25.0 %\n[14.0, 40.0]", "", "35.0 %\n[14.0, 40.0]"],
        ["mine/cut", "2Ki", "40", "10.0 %", "", ""],
    ]
    assert make_written in page._SECTIONS


def test_a_refused_law_is_told(run: Path) -> None:
    assert make_context_losses(read_run(run)) is None
    loss = Score("base", "context_law/loss", "nats", 2048, None, None, 600, 2.1, 2.0, 2.2, 6)
    error = replace(loss, task="context_law/held_out_error", metric="share", value=0.031)
    trained = [
        replace(loss, model="extended", task=f"context_law/{name}", value=value, low=value / 2, high=value * 2)
        for name, value in {"loss": 2.0, "held_out_error": 0.002, "alpha": 21.5, "beta": 0.6, "gamma": 1.5}.items()
    ]
    section = make_context_losses(add(run, loss, replace(loss, context_tokens=1024, value=2.3), error, *trained))
    assert section is not None
    losses, laws = section.tables
    assert [row[0] for row in losses.rows] == ["1Ki", "2Ki"] and losses.rows[0][2] == ""
    refused, accepted = laws.cells
    assert [cell.text for cell in refused] == ["base", "", "", "", "3.10%", "refused"]
    assert accepted[1].text == "21.5\n[10.75, 43]" and accepted[-1].mark == "pass"
    assert make_context_losses in page._SECTIONS
