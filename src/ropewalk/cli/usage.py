"""Errors in the typed command line, reported like all other errors: what, where, why, fix."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import typer
from typer.core import TyperGroup

from ropewalk.core.error import UserError
from ropewalk.recipe.suffix import YAML

# typer takes it from click or from its own copy of click, depending on its version.
_UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])
_NO_ARGUMENTS = "NoArgsIsHelpError"  # this error only shows the help


class Verbs(TyperGroup):
    """The verbs of ropewalk; a command line that cannot be parsed raises UserError."""

    _typed: tuple[str, ...] = ()

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        self._typed = tuple(args)
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except _UsageError as error:
            raise _explain(error, self._typed) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            raise _explain(error, self._typed) from None


def _explain(error: Any, typed: Sequence[str]) -> Exception:
    if type(error).__name__ == _NO_ARGUMENTS:
        return error  # type: ignore[no-any-return]
    message = str(error.format_message()).rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "ropewalk"
    fix = f"{command} --help"
    option = re.search(r"No such option:? '?(-[^\s']+)", message)
    if option:
        fix = f"{fix} lists the options; write a key of the recipe without dashes: {option[1].lstrip('-')}=VALUE"
    elif typed and Path(typed[0]).suffix in YAML:
        fix = f"give a command first: ropewalk run {typed[0]}, or ropewalk check {typed[0]}"
    return UserError(
        "the command cannot be understood", where=f"the command line: {' '.join(typed)}", why=message, fix=fix
    )
