"""A whole training as a GPU runs it, on two ranks: sharded, in tiles, recomputed, saved."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emulated_gpu import EmulatedGPU
from ropewalk.checkpoint.load import load_weights, newest
from ropewalk.core.record import TIMED, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.launch import run_ranks
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe

SHORT = {"tokens": 4 * 4 * 64, "checkpoint_steps": 2, "log_steps": 2}
SAVING = {"recompute": "save_attention", "mlp_tile_tokens": 16}


def train(prepared: tuple[Path, Path], run: Path, count: Callable[[], Any], **parallel: Any) -> list[Any]:
    """Train a stage on two ranks; what ``count`` says on each rank at the end."""
    (run / "stages" / "0").mkdir(parents=True)
    (run / "stages" / "0" / "extended").symlink_to(prepared[0] / "stages" / "0" / "extended")
    recipe = make_recipe(micro_batch_size=1, **SHORT, parallel=parallel)

    def on_rank() -> Any:
        assert train_stage(recipe, stage=0, run=run, corpus=prepared[1]) == "limit"
        return count()

    return run_ranks(on_rank, 2, threads=1)


def read_numbers(run: Path) -> dict[tuple[int, str], float]:
    return {(row.step, row.name): row.value for row in read_metrics(run / "metrics.jsonl") if row.name not in TIMED}


@pytest.mark.parametrize(("precision", "rel"), [("float32", 2e-4), ("bfloat16", 3e-2)])
def test_training_equals_the_plain_path(
    precision: str,
    rel: float,
    prepared: tuple[Path, Path],
    tmp_path: Path,
    gpu: EmulatedGPU,
    small_tiles: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss of every step, gradient norms, the held-out loss; and the weights that were saved.

    In bfloat16 the operators refuse all but 16-bit types at any place of a step, of an evaluation and of a save.
    """
    monkeypatch.setattr(gpu, "any_dtype", precision == "float32")

    def count() -> Counter[str]:
        return Counter(launch.operator for launch in gpu.launches)

    for kinds in train(prepared, tmp_path / "gpu", count, precision=precision, **SAVING):
        assert kinds["flash"] and kinds["cudnn"] and kinds["flash_backward"] and kinds["cudnn_backward"]
    monkeypatch.undo()
    assert not any(sum(kinds.values()) for kinds in train(prepared, tmp_path / "plain", count, precision=precision))
    expected = read_numbers(tmp_path / "plain")
    assert read_numbers(tmp_path / "gpu") == pytest.approx(expected, rel=rel, abs=1e-6)
    assert {name for _, name in expected} >= {"loss/train", "grad_norm"}
    saved = [load_weights(newest(RunFolder(tmp_path / run).checkpoints(0))) for run in ("gpu", "plain")]  # type: ignore[arg-type]
    for name, weight in saved[0].items():
        assert (weight - saved[1][name]).norm() < 10 * rel * weight.norm(), name
