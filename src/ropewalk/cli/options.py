"""What every verb of the command line has: a recipe with overrides first, and one result to print at the end."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ropewalk.core.progress import say
from ropewalk.parallel.torchrun import is_first

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe: a .yaml file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Overrides on the recipe.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit code 3 if a target is missed, 4 if one is undecided; as strict: true.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def load(recipe: Path, overrides: Sequence[str] | None) -> Any:
    """The recipe with its overrides, checked."""
    from ropewalk.recipe.load import load_recipe

    return load_recipe(recipe, overrides or ())


def end_strictly(recipe: Any, strict: bool) -> None:
    """Where ``--strict`` or the recipe asks for it, end as the targets say: in silence if all are met."""
    if strict or recipe.strict:
        from ropewalk.report.page import strict_code, summarise

        summary = summarise(Path(recipe.run))
        if (code := strict_code(summary)) and is_first():
            say(f"strict: {summary['text'].splitlines()[-1]}")
        if code:
            raise typer.Exit(code)


def show(result: dict[str, Any], as_json: bool) -> None:
    """``text`` is for people and left out of the JSON; everything else is for programs."""
    if not is_first():
        return
    if as_json:
        print(_to_json({key: value for key, value in result.items() if key != "text"}))
    else:
        print(result["text"])


def _to_json(result: dict[str, Any]) -> str:
    """JSON that standard output can print as it is: letters that its encoding has not are escaped as JSON does it."""
    text = json.dumps(result, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(result)
    return text
