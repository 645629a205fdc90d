"""A longer stage begins from a shorter one's checkpoint, and ends as if it had been trained alone."""

import json
from pathlib import Path

import pytest
import yaml

from ropewalk.commands.run import do_part
from ropewalk.commands.share_steps import copy_metrics, find_shared_step, link_steps
from ropewalk.commands.sweep import run_sweep
from ropewalk.core.artifact import MANIFEST
from ropewalk.core.record import Metric, append_metrics, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.sweep import load_sweep

SCHEDULE = "stages.0.schedule={{shape: {shape}, warmup: {warmup}, decay: 0.25}}"
TOKENS = {"short": 1024, "long": 2048}


def write_study(recipe: Recipe, folder: Path, model: Path, *, shape: str = "wsd", warmup: float = 0.5) -> Path:
    """One arm at two budgets, whose warm-ups have equally many steps."""
    data = recipe.to_json()
    data |= {"model": str(model), "stages": data["stages"][1:]}
    data["parallel"] |= {"ranks": 1, "context_parallel": 1}
    data["stages"][0] |= {"step_tokens": 256, "gate": None, "log_steps": 2, "checkpoint_steps": 100}
    data["evaluate"] |= {"answers": 4, "documents": 2, "short_tokens": 128, "lengths": [1], "position_lengths": 1}
    (folder / "one.yaml").write_text(yaml.safe_dump(data))
    budget = {
        name: [f"stages.0.tokens={tokens}", SCHEDULE.format(shape=shape, warmup=warmup * TOKENS["short"] / tokens)]
        for name, tokens in TOKENS.items()
    }
    sweep = {"recipe": "one.yaml", "study": str(folder / "study"), "arms": {"one": []}, "axes": {"budget": budget}}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(sweep | {"seeds": [1], "base": False, "zero_shot": False}, sort_keys=False))
    return path


def test_a_longer_stage_goes_on_from_a_shorter_one_and_ends_as_if_alone(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do_part("prepare", recipe)
    study = write_study(recipe, tmp_path, RunFolder(Path(recipe.run)).initial)
    together = json.loads(Path(run_sweep(study, [])["results"]).read_text())
    said = capsys.readouterr().err
    assert "stage 0: begins from step 3 of seed-1/short/one/trained, whose steps are the same" in said

    budget = json.dumps(yaml.safe_load(study.read_text())["axes"]["budget"]["long"])
    own = [f"study={tmp_path / 'alone'}", f"axes={{budget: {{long: {budget}}}}}"]
    alone = json.loads(Path(run_sweep(study, own)["results"]).read_text())
    assert "begins from" not in capsys.readouterr().err
    runs = [RunFolder(tmp_path / name / "cells/seed-1/long/one/trained") for name in ("study", "alone")]
    begun = [json.loads(run.sessions.read_text())[0]["from_step"] for run in runs]
    assert begun == [3, 0], "the first three steps were not taken again"
    ours, theirs = ((run.trained(0) / "model.safetensors").read_bytes() for run in runs)
    assert ours == theirs, "the weights are those of a training of its own, to the bit"
    assert together["cells"][-1]["scores"] == alone["cells"][-1]["scores"]
    lines = [[json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] for run in runs]
    assert lines[0] == lines[1] and max(lines[0]) == 8


def put_trained(run: RunFolder, steps: list[int]) -> None:
    for folder in (run.trained(0), *(run.checkpoint(0, step) for step in steps)):
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text("{}")


def test_steps_are_shared_only_where_rates_and_all_else_are_equal(recipe: Recipe, tmp_path: Path) -> None:
    def share(*overrides: str, shape: str = "wsd", steps: tuple[int, ...] = (3, 4), warmup: float = 0.5) -> int | None:
        study = write_study(recipe, tmp_path, tmp_path, shape=shape, warmup=warmup)
        short, long = (cell.recipe for cell in load_sweep(study)[1])
        if overrides:
            long = load_sweep(study, [f"overrides={json.dumps(overrides)}"])[1][1].recipe
        run = RunFolder(tmp_path / f"run-{len(list(tmp_path.iterdir()))}")
        put_trained(run, list(steps))
        return find_shared_step(long, short, run, 0)

    assert share() == 3, "the rate of step 4 has begun to fall"
    assert share(shape="constant") == 4
    assert share(shape="cosine") is None
    assert share(steps=(4,)) is None, "the checkpoint of before the decay is gone"
    assert share(warmup=0.5, shape="constant", steps=(1, 2)) == 2
    for key in (
        "stages.0.lr=0.5",
        "stages.0.betas=[0.5, 0.5]",
        "seed=9",
        "corpus.max_repeats=3",
        "corpus.when_dry=spread",
    ):
        assert share(key) is None, key
    assert share("stages.0.merge_with_base=0.5") == 3, "it is merged after its last step"


def test_steps_before_a_first_checkpoint_give_way_to_those_that_are_linked(recipe: Recipe, tmp_path: Path) -> None:
    """A cell was killed in its second step, before it had a checkpoint; meanwhile another cell ended."""
    short, long = (cell.recipe for cell in load_sweep(write_study(recipe, tmp_path, tmp_path))[1])
    there, ours = RunFolder(tmp_path / "there"), RunFolder(tmp_path / "ours")
    put_trained(there, [3])
    ours.root.mkdir()
    for run, steps, loss in ((there, 4, 2.0), (ours, 2, 3.0)):
        append_metrics(run.metrics, [Metric(0, step, "loss/train", loss, "nats") for step in range(1, steps + 1)])
    link_steps(long, ours, [("short", short, there)], 0)
    assert [(row.step, row.value) for row in read_metrics(ours.metrics)] == [(1, 2.0), (2, 2.0), (3, 2.0)]
    copy_metrics(there, ours, 0)
    assert [row.step for row in read_metrics(ours.metrics)] == [1, 2, 3, 4]


def test_a_stage_that_went_back_or_is_not_finished_gives_nothing(recipe: Recipe, tmp_path: Path) -> None:
    short, long = (cell.recipe for cell in load_sweep(write_study(recipe, tmp_path, tmp_path))[1])
    run = RunFolder(tmp_path / "run")
    assert find_shared_step(long, short, run, 0) is None
    put_trained(run, [3])
    assert find_shared_step(long, short, run, 0) == 3
    assert find_shared_step(long, short, run, 1) is None
    run.rollbacks(0).write_text("[]")
    assert find_shared_step(long, short, run, 0) is None
