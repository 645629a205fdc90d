"""The verb of the receipt; it takes run folders, not a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli.options import AsJson, print_result


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
