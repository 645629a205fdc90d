"""A gradual change of positions begins at the base and ends at the extended model; a kill in between costs nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ropewalk.checkpoint.load import newest
from ropewalk.core.record import read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.extend import extend, read_former
from ropewalk.model.load import load_model
from ropewalk.model.rope_hooks import interpolate_positions
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.spec import Recipe
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Dynamic, Nope, Proportional, Rope, Unchanged, Yarn
from ropewalk.train.learning_rate import interpolation_share
from ropewalk.train.replay import replay
from ropewalk.train.stage import train_stage
from tiny_run import CONTEXT_TOKENS, make_recipe

Prepared = tuple[Path, Path]
Losing = Callable[[int], AbstractContextManager[None]]
TARGET = 4 * CONTEXT_TOKENS
CHANGES: dict[str, tuple[Rope, tuple[LayerRule, ...]]] = {
    "yarn": (Yarn(), ()),
    "dynamic": (Dynamic(), ()),
    "proportional": (Proportional(share=0.5), ()),
    "a class that skips rope": (Nope(), (LayerRule(rope=Unchanged()), LayerRule())),
    "our own spelling": (Yarn(), (LayerRule(rope=Unchanged(), temperature="log_n"), LayerRule())),
}


def extend_base(prepared: Prepared, out: Path, name: str) -> Path:
    rope, layers = CHANGES[name]
    extend(prepared[0] / "stages" / "0" / "extended", out, rope=rope, layers=layers, context_tokens=TARGET)
    return out


@pytest.mark.parametrize("name", CHANGES)
def test_it_goes_from_the_base_to_the_extended_model(prepared: Prepared, tmp_path: Path, name: str) -> None:
    base = load_model(prepared[0] / "stages" / "0" / "extended")
    folder = extend_base(prepared, tmp_path / "out", name)
    end, annealed = load_model(folder), load_model(folder, former=read_former(folder))
    tokens = torch.arange(TARGET)[None] % 60
    with torch.no_grad():
        first, last = base(tokens).logits, end(tokens).logits
        assert torch.equal(annealed(tokens).logits, last), "without a share it is the extended model"
        passed = []
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            interpolate_positions(annealed, share)
            passed.append(annealed(tokens).logits)
    assert torch.allclose(passed[0], first, rtol=0, atol=1e-5 * float(first.abs().max()))
    assert torch.equal(passed[-1], last)
    left = [float((each - first).norm()) for each in passed]
    steps = [float((after - before).norm()) for before, after in pairwise(passed)]
    assert all(step > 0 for step in steps) and max(steps) < float((last - first).norm()), "in steps, not at once"
    assert left[1] < left[-1]


def test_the_share_depends_on_the_step_alone() -> None:
    assert [interpolation_share(step, steps=4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert interpolation_share(0, steps=0) == 1
    with pytest.raises(ValueError, match="the stage ends after 8 steps, before its 9 steps of interpolation"):
        make_recipe(rope_interpolation_steps=9)


@pytest.fixture
def annealing_run(prepared: Prepared, tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name / "stages" / "0").mkdir(parents=True)
        extend_base(prepared, tmp_path / name / "stages" / "0" / "extended", "a class that skips rope")
        return tmp_path / name

    return make


def train(recipe: Recipe, run: Path, corpus: Path) -> str:
    def on_rank() -> str:
        return train_stage(recipe, stage=0, run=run, corpus=corpus)

    return run_ranks(on_rank, recipe.parallel.ranks, threads=1)[0]


def weights_of(run: Path) -> dict[str, bytes]:
    checkpoint = newest(RunFolder(run).checkpoints(0))
    assert checkpoint is not None
    return {
        f"{path.name}/{name}": value.numpy().tobytes()
        for path in checkpoint.glob("*.safetensors")
        for name, value in load_file(path).items()
    }


def losses(run: Path) -> dict[int, float]:
    return {row.step: row.value for row in read_metrics(run / "metrics.jsonl") if row.name == "loss/train"}


def test_a_kill_while_annealing_is_made_good_bit_for_bit(
    prepared: Prepared, annealing_run: Callable[[str], Path], losing: Losing
) -> None:
    recipe = make_recipe(rope_interpolation_steps=6, checkpoint_steps=2)
    straight, killed = annealing_run("straight"), annealing_run("killed")
    assert train(recipe, straight, prepared[1]) == "limit"
    with losing(3):
        train(recipe, killed, prepared[1])
    assert train(recipe, killed, prepared[1]) == "limit"
    assert weights_of(killed) == weights_of(straight) and losses(killed) == losses(straight)
    rows = {row.name: row.value for row in read_metrics(straight / "metrics.jsonl") if row.step == 2}
    record = {"stage": 0, "step": 2, "rollbacks": 0, "first_sequence": 4}
    record |= {"loss": rows["loss/train"], "grad_norm": rows["grad_norm"], "sequences": [{}] * 4}
    again = run_ranks(replay, recipe.parallel.ranks, record, recipe, straight, prepared[1], threads=1)[0]
    assert again["same"], "a step is replayed at its own positions"
    # It began where the base stands, as a sudden change does not.
    base, sudden = straight.with_name("base"), annealing_run("sudden")
    (base / "stages" / "0").mkdir(parents=True)
    (base / "stages" / "0" / "extended").symlink_to(prepared[0] / "stages" / "0" / "extended")
    short = {"tokens": 4 * CONTEXT_TOKENS}
    train(make_recipe(**short), base, prepared[1])
    train(make_recipe(**short), sudden, prepared[1])
    gradual, at_once = (abs(losses(run)[1] - losses(base)[1]) for run in (straight, sudden))
    assert gradual < at_once / 5, "random weights hardly look at positions, but they do"


def test_nothing_ends_a_stage_that_is_not_at_its_positions(
    prepared: Prepared, annealing_run: Callable[[str], Path]
) -> None:
    run = annealing_run("until")
    until = {"metric": "loss/source/plain", "value": 100.0, "max_steps": 8}
    assert train(make_recipe(stop=until, rope_interpolation_steps=5, log_steps=2), run, prepared[1]) == "solved"
    assert max(losses(run)) == 6, "solved at once, and ended at the first panel after annealing"
