"""The verbs of the command line. Each is thin and imports its part only when called, so ``--help`` is instant.

Results go to standard output (with ``--json`` as one JSON object), progress to standard error. Exit code 0: done; 1: a
rank failed, hung or was lost; 2: an input of the user cannot be used, or a check found an error; with ``--strict`` 3: a
target is missed, 4: a target is undecided; 75: stopped by a signal and saved; 130: a second Ctrl-C. After 1, 75 and 130
the same command continues from the newest checkpoint.
"""

import shlex
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ropewalk.cli.beginnings import app as beginnings_app
from ropewalk.cli.corpus import app as corpus_app
from ropewalk.cli.evaluation import evaluate_command
from ropewalk.cli.exporting import export_command
from ropewalk.cli.options import (
    AsJson,
    Overrides,
    RecipeArgument,
    Strict,
    end_strictly,
    forget_output,
    load_given,
    load_open,
    print_result,
    show_part,
    takes_output,
)
from ropewalk.cli.planning import check_command
from ropewalk.cli.run_records import receipt_command, replay_command, report_command, watch_command
from ropewalk.cli.studies import recommend_mix_command, sweep_command
from ropewalk.cli.usage import Verbs
from ropewalk.core.error import EXIT_CODE, RankError, UserError, explain_disk_fault
from ropewalk.core.events import emit, open_events
from ropewalk.core.progress import set_first, set_quiet
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.core.translate import set_language, spell_error, translate_error, translate_text
from ropewalk.core.versions import find_version
from ropewalk.parallel.stop import heed_stop
from ropewalk.parallel.torchrun import is_first, is_started
from ropewalk.recipe.named import is_recipe

_INTERRUPTED = 130

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Extend the context of a language model, and measure the result. RECIPE is a YAML file; override its keys "
    "with path=value.",
)


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"ropewalk {find_version('ropewalk')}")
        raise typer.Exit
    return False


@app.callback()
def start(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show no progress: results, warnings and errors alone. After a verb, too.")
    ] = False,
    events: Annotated[
        Path | None,
        typer.Option("--events", metavar="FILE", help="Append what happens to FILE, as JSON lines. After a verb, too."),
    ] = None,
    lang: Annotated[
        str,
        typer.Option("--lang", metavar="en|zh", help="The language of messages and reports. After a verb, too."),
    ] = "en",
) -> None:
    """Take the options of all verbs."""
    set_language(lang)
    set_quiet(quiet)
    set_first(is_first())
    open_events(events)
    emit("started", arguments=sys.argv[1:], version=find_version("ropewalk"))


app.add_typer(corpus_app, name="corpus")
app.add_typer(beginnings_app)


@app.command("run")
def run_command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    strict: Strict = False,
    as_json: AsJson = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="A trial: at most 20 steps a stage, few measurements, folder RUN-fast.")
    ] = False,
) -> str | None:
    """Run all parts of a recipe, from text to report; continue where an earlier run stopped."""
    from ropewalk.commands.run import run_recipe
    from ropewalk.recipe.fast_run import plan_trial

    loaded = load_given(recipe, overrides)
    if fast:
        loaded = load_given(recipe, [*plan_trial(loaded), *(overrides or [])])  # what the user gave holds
    print_result(run_recipe(loaded), as_json)
    end_strictly(loaded, strict)
    folder = shlex.quote(str(RunFolder(Path(loaded.run)).export))  # a trial has keys that nobody typed
    line = f"open report.html; ropewalk export {folder} --verify prints the commands that serve the model"
    return line if fast else None


@app.command("prepare")
def prepare_command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    mark_failure: Annotated[
        bool,
        typer.Option("--mark-failure", help="Leave RUN.prepare-failed for jobs in `corpus wait` if input is wrong."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Collect, clean, de-duplicate and tokenise the corpus into the store."""
    if not mark_failure:
        show_part("prepare", recipe, overrides, as_json)
        return
    from ropewalk.commands import wait_corpus

    with wait_corpus.mark_failure(load_open(recipe, overrides)):
        show_part("prepare", recipe, overrides, as_json)


@app.command("extend")
def extend_command(
    target: Annotated[Path, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, or a model folder.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OUT] [PATH=VALUE]...", help="For a model: the new folder, then the stage."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change the positions (RoPE) of the model, and check that the built model runs them."""
    if is_recipe(target):
        show_part("extend", target, arguments, as_json)
        return
    if not arguments or "=" in arguments[0]:
        raise UserError(
            "the folder for the extended model is missing",
            where="the command line",
            why="the extended model is written to a new folder",
            fix=f"ropewalk extend {target} OUT context_length=16Ki rope.kind=theta rope.theta=1e6",
        )
    from ropewalk.commands.extend import extend_model

    print_result(extend_model(str(target), Path(arguments[0]), arguments[1:]), as_json)


@app.command("advise")
def advise_command(
    target: Annotated[
        Path, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, a model folder, or a base's name on the hub.")
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OUT] [PATH=VALUE]...", help="A folder for the page, then the target: context_length=128Ki."
        ),
    ] = None,
    probe: Annotated[
        Path | None, typer.Option(metavar="TEXT", help="Run the candidates on the model: a .txt, .md or .jsonl.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="The budget of --probe; 30 by default. Less time: fewer texts and candidates.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recommend a RoPE method for a target length, with reasons; needs no GPU and no training."""
    from ropewalk.commands.advise import advise_model

    print_result(advise_model(target, arguments or [], probe=probe, minutes=minutes), as_json)


@app.command("train")
def train_command(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Continue the pretraining, stage by stage, on this machine's ranks or under torchrun."""
    show_part("train", recipe, overrides, as_json)


app.command("evaluate")(evaluate_command)


app.command("export")(export_command)


@app.command("verify")
def verify_command(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compare training steps at context-parallel degree 1 and at the recipe's; exit code 2 if they differ."""
    from ropewalk.commands.verify import verify_degrees

    found = verify_degrees(load_given(recipe, overrides))
    print_result(found, as_json)
    if not found["passed"]:
        raise typer.Exit(EXIT_CODE)


app.command("report")(report_command)
app.command("watch")(watch_command)
app.command("replay")(replay_command)
app.command("receipt")(receipt_command)


app.command("sweep")(sweep_command)
app.command("recommend-mix")(recommend_mix_command)
app.command("check")(check_command)


@app.command("schema")
def schema_command(
    kind: Annotated[str, typer.Argument(metavar="[recipe|study]", help="The kind of file.")] = "recipe",
    table: Annotated[bool, typer.Option("--table", help="All keys as a table in Markdown instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the JSON Schema of a recipe or a study; with it an editor completes, explains and checks the file."""
    from ropewalk.recipe.key_table import tabulate_keys
    from ropewalk.recipe.schema import make_schema

    made = make_schema(kind)
    text = tabulate_keys(kind) if table else spell_json(made, indent=1, ensure_ascii=False)
    print_result({**made, "text": text}, as_json, is_code=True)


def main() -> None:
    """The ``ropewalk`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character shows its number
    forget_output()
    try:
        with heed_stop():
            app(prog_name="ropewalk")
    except UserError as error:
        _end(error)
    except RankError as error:
        told = translate_text(str(error))
        emit("error", what=told, code=1)
        if "--json" in sys.argv:
            _is_teller()  # it waits for rank 0, whose object comes first
        _print_error({"what": told, "where": "", "why": "", "fix": ""})
        print(f"ropewalk: {told}", file=sys.stderr)  # each rank's own: the message names a rank
        sys.exit(1)
    except OSError as error:
        fault = explain_disk_fault(error)
        if fault is None:
            raise
        _end(fault)
    except SystemExit as end:
        emit("ended", code=end.code or 0)
        if end.code == _INTERRUPTED:  # typer turns KeyboardInterrupt into it without a message
            print(f"ropewalk: {translate_text('interrupted; the same command continues from here')}", file=sys.stderr)
        raise


def _end(error: UserError) -> NoReturn:
    error = translate_error(error)
    told = {"what": error.what, "where": error.where, "why": error.why, "fix": error.fix}
    emit("error", **told, code=EXIT_CODE)
    is_teller = _is_teller()
    _print_error(told)
    if is_teller:
        print(f"ropewalk: {spell_error(error)}", file=sys.stderr)
    sys.exit(EXIT_CODE)


def _print_error(told: dict[str, str]) -> None:
    if "--json" in sys.argv and takes_output(is_error=True):
        print(spell_json({"error": told}), flush=True)


def _is_teller() -> bool:
    """Whether this process tells its error. Without torchrun it does; with it the ranks agree, which needs torch."""
    if not is_started():
        return True
    from ropewalk.parallel.tell_once import is_teller

    return is_teller()
