"""A study's file becomes cells that differ in what it says and in nothing else, or one clear error."""

from pathlib import Path

import pytest
import yaml

from ropewalk.core.error import UserError
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.sweep import Cell, load_sweep

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = """
model: base
run: runs/one
seed: 5
corpus:
  sources: [{name: text, path: text.jsonl, role: general}]
  mix: {general: 1}
stages:
  - {context_length: 2Ki, rope: {kind: theta, theta: 1e6}, tokens: 2M, step_tokens: 8Ki, lr: 2e-5}
evaluate: {seed: 100}
"""
STUDY = {
    "recipe": "recipe.yaml",
    "study": "runs/study",
    "overrides": ["stages.0.tokens=1M"],
    "arms": {"theta": ["stages.0.rope.theta=5e5"], "linear": ["stages.0.rope={kind: linear}"]},
    "axes": {"length": {"4x": ["stages.0.context_length=2Ki"], "8x": ["stages.0.context_length=4Ki"]}},
    "seeds": [1, 2],
}


def write(folder: Path, **changes: object) -> Path:
    (folder / "recipe.yaml").write_text(RECIPE)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return path


def cells_of(path: Path, *overrides: str) -> list[Cell]:
    return load_sweep(path, overrides)[1]


def test_arms_axes_and_seeds_are_multiplied_and_what_needs_no_training_comes_first(tmp_path: Path) -> None:
    points = [f"{length}/{arm}" for length in ("4x", "8x") for arm in ("theta", "linear")]
    bases = ["seed-1/4x/base", "seed-1/8x/base"]
    names = [*bases, *(f"seed-1/{point}/zero-shot" for point in points)]
    names += [f"seed-1/{point}/trained" for point in points]
    names += ["seed-2/4x/base", "seed-2/8x/base", *(f"seed-2/{point}/trained" for point in points)]
    cells = cells_of(write(tmp_path))
    assert [cell.name for cell in cells] == names
    assert [cell.recipe.run for cell in cells] == [f"runs/study/cells/{name}" for name in names]
    assert [cell.name for cell in cells_of(write(tmp_path, base=False, zero_shot=False))] == [
        name for name in names if name.endswith("trained")
    ]
    assert [cell.name for cell in cells_of(write(tmp_path), "seeds=[2]", "axes={}", "base=false")] == [
        f"seed-2/{arm}/{kind}" for kind in ("zero-shot", "trained") for arm in ("theta", "linear")
    ]
    every = [cell for cell in cells_of(write(tmp_path, zero_shot="every_seed")) if cell.kind == "zero-shot"]
    assert [cell.name for cell in every] == [f"seed-{n}/{point}/zero-shot" for n in (1, 2) for point in points]
    assert {(cell.seed, cell.recipe.evaluate.seed) for cell in every} == {(1, 101), (2, 102)}


def test_a_cell_is_the_recipe_with_its_overrides_and_nothing_else(tmp_path: Path) -> None:
    (cell,) = (cell for cell in cells_of(write(tmp_path)) if cell.name == "seed-2/8x/linear/trained")
    alone = ["stages.0.tokens=1M", "stages.0.context_length=4Ki", "stages.0.rope={kind: linear}"]
    alone += ["seed=2", "corpus.seed=5", "evaluate.seed=102"]
    assert cell.recipe.digest == load_recipe(tmp_path / "recipe.yaml", alone).digest


def test_seeds_change_order_and_prompts_but_never_the_corpus(tmp_path: Path) -> None:
    cells = [cell for cell in cells_of(write(tmp_path)) if cell.kind == "trained"]
    assert len({cell.recipe.digest for cell in cells}) == len(cells)
    assert all(cell.recipe.corpus == cells[0].recipe.corpus for cell in cells)
    assert {cell.recipe.corpus_seed for cell in cells} == {5}
    assert {(cell.recipe.seed, cell.recipe.evaluate.seed) for cell in cells} == {(1, 101), (2, 102)}
    given = cells_of(write(tmp_path), 'overrides=["corpus.seed=9"]')
    assert {cell.recipe.corpus_seed for cell in given} == {9}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {}}, "arms"),
        ({"arms": {"a": ["stages.0.roqe.kind=linear"]}}, "arm a.*\n.*did you mean rope"),
        ({"arms": {"a": ["stages.3.lr=1"]}}, "does not lead to a key"),
        ({"arms": {"a": ["stages.0.lr"]}}, "is not an override"),
        ({"arms": {"a": [], "b": []}}, "two cells are the same run"),
        ({"arms": {"a": ["seed=1"], "b": ["seed=2"]}}, "seed is set twice"),
        ({"arms": {"a": ["stages.0.context_length=1Ki"]}}, "stages.0.context_length is set twice"),
        ({"arms": {"a": ["stages.0={}"]}}, "stages.0 is set twice"),
        ({"arms": {"a": ["stages.0.lr=1", "stages.0.lr=2"]}}, "stages.0.lr is set twice"),
        ({"arms": {"a/b": []}}, "becomes the name of a folder"),
        ({"arms": {"..": []}}, "becomes the name of a folder"),
        ({"arms": {"base": []}}, "choose another name"),
        ({"axes": {"length": {}}}, "axes.length"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "contain one seed twice"),
        ({"lengths": {}}, "there is no such key"),
        ({"recipe": "nowhere.yaml"}, "cannot be read"),
        ({"overrides": ["model={init: {layers: 1, width: 8, heads: 1, kv_heads: 1, head_dim: 8, mlp_width: 8, "
                        "context_length: 64, tokenizer: 300}}"]}, "no base to measure"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_does_not_hold_together_is_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError, match=f"(?s){said}"):
        load_sweep(path)


def test_a_shipped_recipe_is_found_from_any_folder_and_a_file_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()  # a folder is no recipe
    for name in ("quickstart.yaml", "qwen3-0.6b-128k"):
        path = write(tmp_path, recipe=name, overrides=[], base=False, axes={}, arms={"a": ["stages.0.lr=1e-6"]})
        shipped = load_recipe(Path(name.removesuffix(".yaml")) if "qwen" in name else RECIPES / name)
        assert {cell.recipe.model for cell in cells_of(path)} == {shipped.model}
    (tmp_path / "quickstart.yaml").write_text(RECIPE)
    path = write(
        tmp_path, recipe="quickstart.yaml", overrides=[], base=False, axes={}, arms={"a": ["seed=1"]}, seeds=[1]
    )
    with pytest.raises(UserError, match="seed is set twice"):
        cells_of(path)
    assert {cell.recipe.model for cell in cells_of(path, 'arms={a: ["stages.0.lr=1e-6"]}')} == {"base"}
    copied = tmp_path / "copy" / "study.yaml"
    copied.parent.mkdir()
    copied.write_text((RECIPES / "study-theta.yaml").read_text())
    (tmp_path / "quickstart.yaml").unlink()
    assert {cell.recipe.model for cell in cells_of(copied)} == {"tiny-base"}
