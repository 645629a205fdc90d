"""Rows and scores go to disk and come back; seeds and digests depend on what they name, and on nothing else."""

import pickle
from pathlib import Path

from ropewalk.core.digest import digest_file, digest_value
from ropewalk.core.error import UserError
from ropewalk.core.record import Metric, Score, append_metrics, read_metrics, read_scores, write_scores
from ropewalk.core.seed import seed_for, stream


def test_rows_come_back_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [Metric(0, step, "loss/train", 1.5 / (step + 1), "nats") for step in range(3)]
    append_metrics(path, rows[:2])
    append_metrics(path, rows[2:])
    with path.open("a") as file:
        file.write('{"stage": 0, "st')
    assert list(read_metrics(path)) == rows


def test_scores_come_back(tmp_path: Path) -> None:
    scores = [Score("base", "retrieval/key_value", "accuracy", 512, 0.5, "en", 1000, 0.97, 0.96, 0.98)]
    write_scores(tmp_path / "scores.json", scores)
    assert read_scores(tmp_path / "scores.json") == scores


def test_a_digest_is_of_the_value_not_of_its_order(tmp_path: Path) -> None:
    assert digest_value({"a": 1, "b": [1, 2]}) == digest_value({"b": [1, 2], "a": 1})
    assert digest_value({"a": 1}) != digest_value({"a": 1.5})
    (tmp_path / "f").write_bytes(b"rope")
    assert digest_file(tmp_path / "f") == digest_file(tmp_path / "f")


def test_streams_are_named() -> None:
    assert seed_for("order", "law", 1) == seed_for("order", "law", 1) < 2**63
    assert seed_for("order", "la", "w1") != seed_for("order", "law", 1)
    assert (stream("a", 1).integers(0, 100, 5) == stream("a", 1).integers(0, 100, 5)).all()


def test_an_error_survives_the_wall_between_processes() -> None:
    error = UserError("what", where="where", why="why", fix="fix")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert all(word in str(error) for word in ("what", "where", "why", "fix"))
