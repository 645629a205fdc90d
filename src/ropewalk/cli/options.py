"""The common elements of all verbs: a recipe with overrides first, and one result to print at the end."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ropewalk.core.events import emit
from ropewalk.core.progress import say
from ropewalk.core.strict_json import drop_infinities, spell_json
from ropewalk.core.translate import translate_all, translate_lines
from ropewalk.parallel.torchrun import is_first, is_started

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe: a .yaml file, or the name of a shipped one.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="Overrides on the recipe.")]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Exit code 3 if a target is missed, 4 if one is undecided; the same as strict: true in the recipe.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_printing: list[int] = []
"""This process, once it has printed its JSON object; a fork of it has printed none."""


def load_given(recipe: Path, overrides: Sequence[str] | None) -> Any:
    """Read the recipe with its overrides, validate it, and decide the counts that it leaves open."""
    loaded = load_open(recipe, overrides)
    if not loaded.open_keys:
        return loaded
    from ropewalk.commands.decide_open import settle_aloud

    return settle_aloud(loaded)


def load_open(recipe: Path, overrides: Sequence[str] | None) -> Any:
    """Read the recipe with its overrides and validate it; what it leaves open stays open."""
    from ropewalk.recipe.load import load_recipe

    return load_recipe(recipe, overrides or ())


def end_strictly(recipe: Any, strict: bool) -> None:
    """Exit with the code of the targets if ``--strict`` or the recipe asks for it; print nothing if all are met."""
    if strict or recipe.strict:
        from ropewalk.report.page import strict_code, summarise

        summary = summarise(Path(recipe.run))
        if (code := strict_code(summary)) and is_first():
            say(f"strict: {summary['text'].splitlines()[-1]}")
        if code:
            raise typer.Exit(code)


def print_result(result: dict[str, Any], as_json: bool, *, is_code: bool = False) -> None:
    """Print the result on the first rank: ``text`` for people, or with ``as_json`` everything else for programs.

    ``is_code``: it is a file that other programs read, so ``--lang`` changes nothing in it.
    """
    if not is_first():
        return
    told = result if is_code else _translate_result(result)
    emit("result", **{key: value for key, value in told.items() if key not in ("event", "time", "process")})
    if as_json:
        if takes_output(is_error=False):
            print(_to_json({key: value for key, value in told.items() if key != "text"}), flush=True)
        else:
            say(
                "the result is not printed: standard output has an object already, of a rank that failed or of a start "
                "before this one"
            )
    else:
        print(told["text"])


def takes_output(*, is_error: bool) -> bool:
    """Whether the verb's one JSON object is this result or error; the first of them is, under torchrun of all ranks.

    It is asked where the object is printed.
    """
    if is_error and os.getpid() in _printing:
        return False
    if is_started():
        from ropewalk.parallel import tell_once

        if not tell_once.claim_output(is_error=is_error):
            return False
    _printing.append(os.getpid())
    return True


def forget_output() -> None:
    """Begin a command line, which prints an object of its own."""
    _printing.clear()


def _translate_result(result: dict[str, Any]) -> dict[str, Any]:
    return {key: translate_lines(each) if key == "text" else translate_all(each) for key, each in result.items()}


def show_part(part: str, recipe: Path, overrides: list[str] | None, as_json: bool) -> Any:
    """Do a part, show its result, and return the recipe."""
    from ropewalk.commands.run import do_part

    loaded = load_given(recipe, overrides)
    print_result(do_part(part, loaded), as_json)
    return loaded


def _to_json(result: dict[str, Any]) -> str:
    """JSON that standard output can print: null for a number that JSON does not have, such as the infinite end of the
    interval of one document. If the encoding lacks a character, non-ASCII characters are escaped."""
    result = drop_infinities(result)
    text = spell_json(result, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return spell_json(result)
    return text
