"""A stage with compiled blocks: the same steps as without, the same names on disk, and a resume to the bit.

torch traces blocks as ever and then runs what it traced as it stands, so nobody waits for C++.
"""

import functools
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from loaded_compiler import load_compiler
from ropewalk.checkpoint.load import load_weights, newest
from ropewalk.core.record import TIMED, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.compiled import compiles_once
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.spec import Recipe
from ropewalk.train.parity import compare_degrees
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe

NewRun = Callable[[str], Path]
Prepared = tuple[Path, Path]
Losing = Callable[[int], AbstractContextManager[None]]
Rows = dict[tuple[int, str], float]
Trained = tuple[Rows, dict[str, torch.Tensor]]
"""What a stage told, and its last weights."""

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or not compiles_once(), reason="no g++, or an older torch: such a recipe is refused"
)


def on_ranks(work: Callable[[], Any], ranks: int) -> list[Any]:
    """torch's settings belong to a thread, so they are set where a rank computes."""

    load_compiler()

    def run() -> Any:
        with torch._dynamo.config.patch(debug_backend_override=">=0:eager"):
            return work()

    return run_ranks(run, ranks, threads=1)


def train(recipe: Recipe, run: Path, corpus: Path) -> Trained:
    def on_rank() -> str:
        return train_stage(recipe, stage=0, run=run, corpus=corpus)

    assert set(on_ranks(on_rank, recipe.parallel.ranks)) == {"limit"}
    checkpoint = newest(RunFolder(run).checkpoints(0))
    assert checkpoint is not None
    rows = (row for row in read_metrics(run / "metrics.jsonl") if row.name not in TIMED)
    return {(row.step, row.name): row.value for row in rows}, load_weights(checkpoint)


CASES: dict[str, dict[str, Any]] = {
    "context": {
        "parallel": {"ranks": 2, "context_parallel": 2, "recompute": "save_attention"},
        "validation": {"steps": 2},
    },
    "adapters, in tiles": {
        "parallel": {"ranks": 1, "context_parallel": 1, "mlp_tile_tokens": 48},
        "lora": {"rank": 4, "also_train": ["norms"]},
    },
}


def recipe_of(case: str, how: str) -> Recipe:
    parallel = {**CASES[case]["parallel"], "compile": how}
    return make_recipe(**{**CASES[case], "parallel": parallel}, tokens=4 * 4 * 64, checkpoint_steps=2, log_steps=2)


@pytest.fixture(scope="module")
def compiled(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """``compiled(case)``: what its undisturbed run with compiled blocks gave, trained when first asked for."""

    @functools.cache
    def ask(case: str) -> Trained:
        run = tmp_path_factory.mktemp("compiled")
        (run / "stages" / "0").mkdir(parents=True)
        (run / "stages" / "0" / "extended").symlink_to(prepared[0] / "stages" / "0" / "extended")
        return train(recipe_of(case, "blocks"), run, prepared[1])

    return ask


@pytest.mark.parametrize("case", CASES)
def test_a_compiled_stage_is_the_same_stage(
    prepared: Prepared, new_run: NewRun, compiled: Callable[[str], Trained], case: str
) -> None:
    expected, plain = train(recipe_of(case, "none"), new_run("none"), prepared[1])
    found, weights = compiled(case)
    assert found == pytest.approx(expected, rel=2e-4, abs=1e-6)
    assert weights.keys() == plain.keys()


def test_resume_after_a_kill_is_bit_identical(
    prepared: Prepared, new_run: NewRun, losing: Losing, compiled: Callable[[str], Trained]
) -> None:
    recipe, straight, run = recipe_of("context", "blocks"), compiled("context"), new_run("killed")
    with losing(3):
        train(recipe, run, prepared[1])
    rows, weights = train(recipe, run, prepared[1])
    assert rows == straight[0]
    assert all(torch.equal(weights[name], weight) for name, weight in straight[1].items())


def test_the_parity_gate_reads_what_trains(prepared: Prepared, new_run: NewRun) -> None:
    recipe, model = make_recipe(parallel={"compile": "blocks"}), RunFolder(new_run("parity")).extended(0)

    def compare() -> Any:
        found = compare_degrees(recipe, stage=0, model=model, corpus=prepared[1])["float32"]
        return found, torch._dynamo.utils.counters["stats"]["unique_graphs"]

    parity, programs = on_ranks(compare, 2)[0]
    assert programs > 0
    assert parity.foreign == 0 and all(layer.difference < 1e-4 for layer in parity.layers)
