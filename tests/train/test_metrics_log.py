"""metrics.jsonl goes back to where a checkpoint stands."""

from pathlib import Path

from ropewalk.core.record import Metric, read_metrics
from ropewalk.train.metrics_log import MetricsLog


def row(stage: int, step: int) -> Metric:
    return Metric(stage, step, "loss/train", 0.1 * step, "nats per token")


def test_rewind_drops_later_rows_and_a_torn_line(tmp_path: Path) -> None:
    metrics_log = MetricsLog(tmp_path / "metrics.jsonl", writes=True)
    metrics_log.rewind(0, 0)
    metrics_log.append([row(0, 1), row(0, 2), row(1, 1), row(1, 2), row(1, 3)])
    with metrics_log.path.open("a") as file:
        file.write('{"stage": 1, "st')
    metrics_log.rewind(1, 2)
    metrics_log.flush()
    assert list(read_metrics(metrics_log.path)) == [row(0, 1), row(0, 2), row(1, 1), row(1, 2)]
    metrics_log.rewind(1, 0)
    assert list(read_metrics(metrics_log.path)) == [row(0, 1), row(0, 2)]


def test_a_stage_that_is_only_written_again_leaves_the_next_one_its_rows(tmp_path: Path) -> None:
    metrics_log = MetricsLog(tmp_path / "metrics.jsonl", writes=True)
    metrics_log.append([row(0, 1), row(0, 2), row(0, 3), row(1, 1), row(1, 2)])
    metrics_log.rewind(0, 2)
    assert list(read_metrics(metrics_log.path)) == [row(0, 1), row(0, 2), row(1, 1), row(1, 2)]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    metrics_log = MetricsLog(tmp_path / "metrics.jsonl", writes=False)
    metrics_log.append([row(0, 1)])
    metrics_log.rewind(0, 0)
    metrics_log.flush()
    assert not metrics_log.path.exists()
