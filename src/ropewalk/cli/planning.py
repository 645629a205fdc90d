"""The verb ``check``: the rules of a recipe and its plan, and questions about the plan."""

import shlex
from pathlib import Path
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
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="First measure this machine with the recipe's ranks; plan with FILE."),
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Add failures, restarts and the documents of a prepared corpus.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no hub: a base's shape comes from the cache or from ropewalk.")
    ] = False,
    as_json: AsJson = False,
) -> str | None:
    """Check a recipe against published rules, and whether it fits, without running it; exit code 2 if not."""
    from ropewalk.commands.check import check_recipe
    from ropewalk.commands.check_inputs import take_offline
    from ropewalk.shape.shipped import is_shape_alone

    asked = given = load_open(recipe, overrides)
    if offline:
        given = take_offline(given)
    if calibrate is not None:
        from ropewalk.commands.calibrate import calibrate_machine

        given = calibrate_machine(given, calibrate)
    findings = check_recipe(given, why_not=why_not or (), explain=explain, simulate=simulate)
    print_result(findings, as_json)
    if findings["errors"]:
        raise typer.Exit(EXIT_CODE)
    weights = [f"model={asked.model}@main"] if isinstance(asked.model, str) and is_shape_alone(asked.model) else []
    kept = [each for each in overrides or () if not (weights and each.startswith("model="))]
    again = shlex.join([str(recipe), *kept, *weights])
    if "missing_paths" in findings:
        return f"put there what the warnings say is missing, then ropewalk run {again}"
    return f"ropewalk run {again}, because a run needs weights, and {asked.model} is a shape" if weights else None
