"""The verb ``evaluate``: for a run, by its recipe, or for any model folder, alone or against its base."""

from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli.options import AsJson, Strict, end_strictly, load_given, print_result
from ropewalk.core.error import UserError
from ropewalk.recipe.named import is_recipe
from ropewalk.recipe.suffix import YAML


def evaluate_command(
    target: Annotated[Path, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, or a model folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH=VALUE]...", help="Overrides; for a model those of evaluate: answers=200."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="For a model: the base that it is compared with.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="For a model: quick (the default), ruler or full.")] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For a model: where sums are kept, by default evaluations."),
    ] = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure base and trained model on the same inputs: loss by position, retrieval, short context; or any model."""
    of_model = any(given is not None for given in (base, suite, store))
    of_recipe = target.suffix in YAML or (is_recipe(target) and not of_model)
    if of_recipe and of_model:
        raise UserError(
            "a recipe has its own base and measurements",
            where="the command line",
            why="--base, --suite and --store are for a model folder",
            fix=f"ropewalk evaluate {target}, or ropewalk evaluate MODEL --base MODEL --suite quick",
        )
    if not of_recipe:
        if strict:
            raise UserError(
                "a model folder has no targets",
                where="--strict",
                why="targets are those of a recipe",
                fix="leave out --strict",
            )
        from ropewalk.commands.evaluate_models import evaluate_folder

        kept = store or Path("evaluations")
        print_result(evaluate_folder(target, overrides or [], base=base, suite=suite or "quick", store=kept), as_json)
        return
    from ropewalk.commands.run import do_part

    recipe = load_given(target, overrides)
    print_result(do_part("evaluate", recipe), as_json)
    end_strictly(recipe, strict)
