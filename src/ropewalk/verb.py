"""What every verb of the command line has: a recipe with overrides first, and one result to print at the end."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ropewalk.parallel.torchrun import is_first

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe: a .yaml file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Overrides on the recipe.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def load(recipe: Path, overrides: Sequence[str] | None) -> Any:
    """The recipe with its overrides, checked."""
    from ropewalk.recipe.load import load_recipe

    return load_recipe(recipe, overrides or ())


def show(result: dict[str, Any], as_json: bool) -> None:
    """``text`` is for people and left out of the JSON; everything else is for programs."""
    if not is_first():
        return
    if as_json:
        print(json.dumps({key: value for key, value in result.items() if key != "text"}, ensure_ascii=False))
    else:
        print(result["text"])
