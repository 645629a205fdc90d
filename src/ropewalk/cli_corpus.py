"""``ropewalk corpus VERB``: looking at text before and after it is prepared, never changing it."""

from pathlib import Path
from typing import Annotated

import typer

from ropewalk.verb import AsJson, Overrides, RecipeArgument, load, show

app = typer.Typer(no_args_is_help=True, help="Look at a recipe's text: what was dropped, and why.")


@app.callback()
def _group() -> None:
    """Without it, typer makes a group of one verb into that verb."""


@app.command()
def inspect(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show twenty examples of each reason to drop text, of a corpus that `prepare` has built."""
    from ropewalk.study.inspect import inspect_recipe

    show(inspect_recipe(load(recipe, overrides)), as_json)


@app.command()
def score(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The column file to write, JSON lines.")],
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="The model that scores; the recipe's own by default.")] = None,
    near: Annotated[str, typer.Option(help="The context that is compared with all there is.")] = "4Ki",
    as_json: AsJson = False,
) -> None:
    """Write what its context is worth to each long document: loss with little context, less loss with all."""
    from ropewalk.study.length import score_recipe

    show(score_recipe(load(recipe, overrides), out, model=model, near=near), as_json)
