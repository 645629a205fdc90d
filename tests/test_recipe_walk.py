"""How far a whole recipe travels: the functions of training take values, and few files get the recipe itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "ropewalk"
MOST_FILES = 25
"""Files that the recipe of one training run may enter, beside recipe/, which defines it."""
NEVER = ("attention", "checkpoint", "core", "corpus", "evaluate", "model", "parallel", "partition", "rope", "shape")
"""Rooms whose functions take values, never a recipe."""


def takes_recipe(tree: ast.AST) -> bool:
    """Whether a function has a parameter that is annotated as a Recipe."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            words = ast.unparse(node.annotation).replace("'", "").replace('"', "")
            if "Recipe" in words.replace("|", " ").replace("[", " ").replace("]", " ").split():
                return True
    return False


def list_imports(tree: ast.AST) -> Iterator[Path]:
    """The files of this package that a file imports, also in functions."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            path = SRC.parent / (name.replace(".", "/") + ".py")
            if name.startswith("ropewalk.") and path.exists():
                yield path


def reach(start: Path) -> set[Path]:
    """All files that ``start`` imports, directly or through others."""
    found, waiting = set[Path](), [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += list_imports(ast.parse(path.read_text()))
    return found


def test_the_recipe_of_a_training_run_enters_few_files() -> None:
    entered = {
        path.relative_to(SRC).as_posix()
        for path in reach(SRC / "commands" / "train.py")
        if takes_recipe(ast.parse(path.read_text())) and path.parent.name != "recipe"
    }
    assert {"commands/train.py", "train/stage.py", "train/stage_context.py"} <= entered
    assert len(entered) <= MOST_FILES, sorted(entered)


@pytest.mark.parametrize("room", NEVER)
def test_rooms_below_training_take_values(room: str) -> None:
    taking = [path for path in (SRC / room).rglob("*.py") if takes_recipe(ast.parse(path.read_text()))]
    assert not taking


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def train(recipe: Recipe) -> None: ...", True),
        ("def train(*, recipe: 'Recipe | None' = None) -> None: ...", True),
        ("def train(recipes: list[Recipe]) -> None: ...", True),
        ("def load() -> Recipe: ...", False),
        ("def train(spec: Stage, recipe_path: Path) -> None: ...", False),
    ],
)
def test_the_rule_by_example(code: str, expected: bool) -> None:
    assert takes_recipe(ast.parse(code)) is expected
