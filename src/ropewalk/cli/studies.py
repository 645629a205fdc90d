"""The verbs of studies: ``sweep`` runs one, ``recommend-mix`` reads the mix from one."""

from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli.options import AsJson, print_result


def sweep_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study: a .yaml file that names a recipe and arms.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Overrides on the study.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe for each arm, axis and seed of a study, and collect the results; continue where it stopped."""
    from ropewalk.commands.sweep import run_sweep

    print_result(run_sweep(study, overrides or []), as_json)


def recommend_mix_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A finished ratio study: its .yaml or its folder.")],
    limit: Annotated[str, typer.Argument(metavar="LIMIT", help="In quotes: 'general_loss<=+1%', or in nats.")],
    tokens: Annotated[
        str | None, typer.Option(metavar="COUNT", help="The budget; by default the largest that was measured.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recommend the largest share of domain text that keeps a limit, with an interval, from a study's laws."""
    from ropewalk.commands.recommend_mix import recommend_mix

    print_result(recommend_mix(study, limit, tokens=tokens), as_json)
