"""rows.jsonl goes back to where a checkpoint stands."""

from pathlib import Path

from ropewalk.core.record import Metric, read_metrics
from ropewalk.train.metrics_log import MetricsLog


def row(stage: int, step: int) -> Metric:
    return Metric(stage, step, "loss/train", 0.1 * step, "nats per token")


def test_rewind_drops_later_rows_and_a_torn_line(tmp_path: Path) -> None:
    journal = MetricsLog(tmp_path / "rows.jsonl", writes=True)
    journal.rewind(0, 0)
    journal.append([row(0, 1), row(0, 2), row(1, 1), row(1, 2), row(1, 3)])
    with journal.path.open("a") as file:
        file.write('{"stage": 1, "st')
    journal.rewind(1, 2)
    journal.flush()
    assert list(read_metrics(journal.path)) == [row(0, 1), row(0, 2), row(1, 1), row(1, 2)]
    journal.rewind(1, 0)
    assert list(read_metrics(journal.path)) == [row(0, 1), row(0, 2)]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    journal = MetricsLog(tmp_path / "rows.jsonl", writes=False)
    journal.append([row(0, 1)])
    journal.rewind(0, 0)
    journal.flush()
    assert not journal.path.exists()
