"""The verbs that read what a run has recorded: they take its files or its folder, not a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli.options import AsJson, print_result


def replay_command(
    skipped: Annotated[Path, typer.Argument(metavar="FILE", help="RUN/stages/N/skipped/*.json")],
    as_json: AsJson = False,
) -> None:
    """Repeat a step that the spike guard skipped, one sequence at a time, to find the cause: data or machine."""
    from ropewalk.commands.replay import replay_skipped

    print_result(replay_skipped(skipped), as_json)


def receipt_command(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a receipt's file.")],
    second: Annotated[
        Path | None, typer.Argument(metavar="[BASELINE]", help="A second one: how many times as fast is the first?")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a run's training took: speed, memory, bytes, energy; or the ratio of two runs, by cause."""
    from ropewalk.commands.receipt import tell_receipt

    print_result(tell_receipt(first, second), as_json)
