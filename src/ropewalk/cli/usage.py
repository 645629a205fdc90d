"""The typed command line: options that stand before or after a verb, its errors, and what to do after it.

Errors are reported like all others: what, where, why, fix.
"""

import difflib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import typer
from typer.core import TyperGroup

from ropewalk.cli.next_steps import say_next
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.translate import keep, set_language
from ropewalk.parallel.torchrun import is_first
from ropewalk.recipe.suffix import YAML

# typer takes it from click or from its own copy of click, depending on its version.
_UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])
_NO_ARGUMENTS = "NoArgsIsHelpError"  # this error only shows the help
_ALIKE = 0.6
"""Similarity from which an option is offered for one that there is not."""
_TAKING = ("--events", "--lang")
"""The options of all verbs that take a value."""


class Verbs(TyperGroup):
    """The verbs of ropewalk; a command line that cannot be parsed raises UserError."""

    _typed: tuple[str, ...] = ()

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        self._typed = tuple(args)
        options, others = split_options(args)
        set_language(_find_language(options))  # before anything is parsed, so that its errors are in this language
        try:
            return super().make_context(info_name, [*options, *others], *rest, **extra)
        except _UsageError as error:
            raise _explain(error, self._typed) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
        except _UsageError as error:
            raise _explain(error, self._typed) from None
        # A verb may return a line of its own.
        line = result if isinstance(result, str) else say_next(split_options(self._typed)[1])
        if line is not None and "--json" not in self._typed and is_first():
            say(f"next: {line}")
        return result


def split_options(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of all verbs, wherever they were typed, and the other arguments; the former are parsed first."""
    first, rest = list[str](), list[str]()
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in _TAKING:
            first += [word, *([value] if (value := next(words, None)) is not None else [])]
        elif word == "--quiet" or word.startswith(tuple(f"{option}=" for option in _TAKING)):
            first.append(word)
        else:
            rest.append(word)
    return first, rest


def _find_language(options: Sequence[str]) -> str:
    """The value of the last --lang; English without one."""
    found = "en"
    for option, following in itertools.pairwise([*options, ""]):
        name, joined, value = option.partition("=")
        if name == "--lang":
            found = value if joined else following
    return found


def _explain(error: Any, typed: Sequence[str]) -> Exception:
    if type(error).__name__ == _NO_ARGUMENTS:
        return error  # type: ignore[no-any-return]
    message = str(error.format_message()).rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "ropewalk"
    fix = f"{command} --help"
    option = re.search(r"No such option:? '?(-[^\s']+)", message)
    offered = re.findall(r"--[\w-]+", message.partition("ossible options:")[2]) or re.findall(
        r"Did you mean '?(--[\w-]+)", message
    )
    names = [each.lstrip("-") for each in offered]
    near = difflib.get_close_matches(option[1].lstrip("-"), names, n=1, cutoff=_ALIKE) if option else []
    if near:
        fix = f"did you mean --{near[0]}? {fix} lists the options"
    elif option:
        fix = f"{fix} lists the options; write a key of the recipe without dashes: {option[1].lstrip('-')}=VALUE"
    elif typed and Path(typed[0]).suffix in YAML:
        fix = f"give a command first: ropewalk run {typed[0]}, or ropewalk check {typed[0]}"
    return UserError(
        "the command cannot be understood", where=f"the command line: {keep(' '.join(typed))}", why=message, fix=fix
    )
