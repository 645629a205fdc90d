"""The recipe that the tests of the verbs begin with."""

from pathlib import Path

import pytest

from ropewalk.recipe.spec import Recipe
from whole_recipe import write_recipe


@pytest.fixture(autouse=True)
def _load_exports_in_a_fork(forked_reload: None) -> None:
    """Of every whole run."""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Two stages on two ranks, in the test's own folder; nothing is done yet."""
    return write_recipe(tmp_path)
