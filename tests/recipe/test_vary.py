"""Arms made of keys and values: each combination once, draws repeat, bad input is one clear error."""

from pathlib import Path

import pytest
import yaml

from ropewalk.core.error import UserError
from ropewalk.recipe.sweep import load_sweep
from ropewalk.recipe.vary import Range, make_arms

RECIPE = """
model: base
run: runs/one
corpus:
  sources: [{name: text, path: text.jsonl, role: general}]
  mix: {general: 1}
stages:
  - {context_length: 2Ki, rope: {kind: theta, theta: 1e6}, tokens: 2M, step_tokens: 8Ki, lr: 2e-5}
"""


def test_a_grid_holds_every_combination_once_in_the_order_of_the_file() -> None:
    arms = make_arms({"stages.0.lr": ["1e-5", 2e-5], "stages.0.rope.theta": ["1e5", "1e6"]}, draw=None, seed=0)
    assert list(arms) == ["lr-1e-5_theta-1e5", "lr-1e-5_theta-1e6", "lr-2e-05_theta-1e5", "lr-2e-05_theta-1e6"]
    assert arms["lr-2e-05_theta-1e6"] == ("stages.0.lr=2e-05", 'stages.0.rope.theta="1e6"')


def test_a_draw_repeats_and_lies_within_its_ranges() -> None:
    vary = {"stages.0.lr": Range(low=1e-5, high=1e-3, scale="log"), "stages.0.z_loss": [0.0, 1e-4]}
    arms = make_arms(vary, draw=40, seed=3)
    assert len(arms) == 40 and arms == make_arms(vary, draw=40, seed=3) != make_arms(vary, draw=40, seed=4)
    rates = [float(own[0].partition("=")[2]) for own in arms.values()]
    assert min(rates) >= 1e-5 and max(rates) <= 1e-3
    assert 10 < sum(rate < 1e-4 for rate in rates) < 30, "on a logarithmic scale half of them lie below the middle"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vary": {"stages.0.lr": {"low": 1e-5, "high": 1e-3}}}, "is a range: say with `draw`"),
        ({"vary": {"stages.0.lr": {"low": 1e-3, "high": 1e-5}}, "draw": 2}, "is not below high"),
        ({"vary": {"stages.0.lr": {"low": 0, "high": 1, "scale": "log"}}, "draw": 2}, "must be above 0"),
        ({"vary": {"stages.0.lr": [1e-5, 1e-4]}, "draw": 3}, "3 arms of 2 combinations"),
        ({"vary": {"stages.0.lr": {"low": 1.0001, "high": 1.0002}}, "draw": 9}, "found only [12] different arm"),
        ({"vary": {"stages.0.lr": [1e-5, 1e-5]}}, "two combinations would be named lr-1e-05"),
        ({"vary": {"stages.0.tokens": list(range(1, 40)), "stages.0.lr": list(range(1, 40))}}, "1,521 combinations"),
        ({"vary": {"stages.0.lr": []}}, "has too few entries"),
        ({"vary": {"seed": [1, 2]}}, "seed is set twice"),
        ({"vary": {"stages.0.lr": [1e-5]}, "arms": {"a": []}}, "either arms or vary"),
        ({}, "give arms, or vary"),
        ({"arms": {"a": []}, "draw": 2}, "no `vary` to draw from"),
        ({"arms": {"a": []}, "prune": {"seeds": 2}, "seeds": [1, 2]}, "no later seed"),
        ({"arms": {"a": []}, "prune": {}, "seeds": [1, 2], "base": False}, "write base: true"),
    ],
)
def test_what_makes_no_study_is_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"recipe": "recipe.yaml", "study": "s", **changes}, sort_keys=False))
    with pytest.raises(UserError, match=said):
        load_sweep(path)


def test_cells_of_a_grid_are_recipes_with_those_values(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    path = tmp_path / "study.yaml"
    path.write_text("recipe: recipe.yaml\nstudy: s\nbase: false\nvary: {stages.0.rope.theta: [1e5, 5e5]}\n")
    trained = [cell for cell in load_sweep(path)[1] if cell.kind == "trained"]
    assert [cell.arm for cell in trained] == ["theta-1e5", "theta-5e5"]
    assert [cell.recipe.stages[0].rope.theta for cell in trained] == [1e5, 5e5]
