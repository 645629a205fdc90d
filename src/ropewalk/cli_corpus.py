"""``ropewalk corpus VERB``: looking at text before and after it is prepared, never changing it."""

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
