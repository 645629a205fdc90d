"""The verbs that read what a run has recorded: its report, also live, a comparison, its receipt, a skipped step."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli.options import AsJson, Strict, end_strictly, print_result, show_part
from ropewalk.core.error import UserError


def report_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE|RUN", help="A recipe; with --compare a run folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH=VALUE|RUN]...", help="Overrides on the recipe; with --compare more run folders."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="One page about several run folders.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --compare: the page, by default comparison.html.")
    ] = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Write report.html from the present contents of the run folder; or one page that compares several runs."""
    if (compare and strict) or (out is not None and not compare):
        raise UserError(
            f"{'--strict' if compare else '--out'} has no effect here",
            where="the command line",
            why="targets are those of one run" if compare else "the report of a run lies in its folder",
            fix="ropewalk report RECIPE --strict, or ropewalk report --compare RUN RUN --out FILE",
        )
    if not compare:
        end_strictly(show_part("report", recipe, overrides, as_json), strict)
        return
    from ropewalk.report.comparison import write_comparison

    folders = [recipe, *map(Path, overrides or ())]
    print_result(write_comparison(folders, out or Path("comparison.html")), as_json)


def watch_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, also of a run that goes on.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="End when the page was sent once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the report of a run in a browser of this machine while it goes on; Ctrl-C ends it. Writes nothing."""
    from ropewalk.commands.watch import RunServer

    with RunServer(run, port=port) as server:
        print_result({"text": f"{server.url} shows {run} as it goes on; Ctrl-C ends it", "url": server.url}, as_json)
        sys.stdout.flush()  # it may be a pipe, and its reader waits for the address
        server.serve(once=once)


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
