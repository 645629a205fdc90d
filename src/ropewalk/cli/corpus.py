"""The verbs ``ropewalk corpus VERB``: they inspect text before and after it is prepared, and never change it."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli.options import AsJson, Overrides, RecipeArgument, load_given, load_open, print_result

app = typer.Typer(
    no_args_is_help=True,
    help="Inspect the text of a recipe: its content, the dropped documents with the reasons, and the effect of other "
    "weights.",
)


@app.command("inspect")
def corpus_inspect_command(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show twenty examples of each reason to drop text, of a corpus that `prepare` has built."""
    from ropewalk.commands.corpus_inspect import inspect_recipe

    print_result(inspect_recipe(load_given(recipe, overrides)), as_json)


@app.command("report")
def corpus_report_command(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> str | None:
    """Write corpus.html and corpus.json: ledger, lengths, languages, mix, copies, sequences, licences."""
    from ropewalk.commands.corpus import report_corpus

    told = report_corpus(load_given(recipe, overrides))
    print_result(told, as_json)
    again = shlex.join([str(recipe), *(overrides or ())])
    line = f"open corpus.html; change the recipe as the fix says, then ropewalk check {again}"
    return line if told["survey"]["undrawn"] else None


@app.command("card")
def corpus_card_command(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Write corpus-card.md, the data card: amounts, origin, licences, languages, filters, examples of dropped text."""
    from ropewalk.commands.corpus import write_recipe_card

    print_result(write_recipe_card(load_given(recipe, overrides)), as_json, is_code=True)


@app.command("tokenise")
def corpus_tokenise_command(
    recipe: RecipeArgument,
    share: Annotated[str, typer.Option(metavar="I/N", help="Number of the share, from 0, and number of shares: 3/16.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Clean and tokenise one share of the text, as one job of an array; `prepare` then joins all shares."""
    from ropewalk.commands.corpus import tokenise_recipe

    print_result(tokenise_recipe(load_given(recipe, overrides), share), as_json)


@app.command("wait")
def corpus_wait_command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option(min=0, help="The longest wait, in seconds.")] = 86400,
    as_json: AsJson = False,
) -> None:
    """Wait until another process has prepared the recipe's text; exit code 2 if it failed (--mark-failure)."""
    from ropewalk.commands.wait_corpus import wait_corpus

    print_result(wait_corpus(load_open(recipe, overrides), seconds=seconds), as_json)


@app.command("export")
def corpus_export_command(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    format: Annotated[str, typer.Option(metavar="KIND", help="megatron, datatrove, olmo or datasets.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the training tokens as files for another trainer, source by source."""
    from ropewalk.commands.corpus import export_corpus

    print_result(export_corpus(load_given(recipe, overrides), out, format), as_json)


@app.command("mix")
def corpus_mix_command(recipe: RecipeArgument, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show the effect of other weights (mix.general=6 lengths.64Ki=3 ...): tokens, repeats, lengths."""
    from ropewalk.commands.corpus import mix_corpus

    print_result(mix_corpus(recipe, overrides or []), as_json)


@app.command("score")
def corpus_score_command(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The scores file to write, JSON lines.")],
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option(help="The model that scores; by default the model of the recipe.")
    ] = None,
    truncated: Annotated[
        str, typer.Option(help="The truncated context in tokens, which is compared with the full context.")
    ] = "4Ki",
    sample: Annotated[
        float, typer.Option(metavar="SHARE", help="Read only this share of the tokens; 0.1 costs a tenth.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Write the gain from long context for each long document: loss with truncated context minus loss with full
    context."""
    from ropewalk.commands.corpus_score import score_recipe

    given = load_given(recipe, overrides)
    print_result(score_recipe(given, out, model=model, truncated=truncated, sample=sample), as_json)
