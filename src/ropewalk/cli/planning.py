"""The verb ``check``: the rules of a recipe and its plan, and questions about the plan."""

from typing import Annotated

import typer

from ropewalk.cli.options import AsJson, Overrides, RecipeArgument, load_open, print_result
from ropewalk.core.error import EXIT_CODE


def check_command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    why_not: Annotated[
        list[str] | None,
        typer.Option("--why-not", metavar="PATH=VALUE", help="Compare the plan with that value; may be repeated."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Each term of the plan, and all settings that no other one beats.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe against published rules, and whether it fits, without running it; exit code 2 if not."""
    from ropewalk.commands.check import check_recipe

    findings = check_recipe(load_open(recipe, overrides), why_not=why_not or (), explain=explain)
    print_result(findings, as_json)
    if findings["errors"]:
        raise typer.Exit(EXIT_CODE)
