"""The shapes of common bases that ropewalk ships: config.json without weights, under the names of the hub.

A check, a forecast and advice need only a shape, so they work by a base's name without a hub. Anything that needs
weights or a tokenizer needs a revision of the hub, or a folder. Each shape has its source, and the day on which the
source was as it is here: the file on the hub can have changed since.
"""

import difflib
import functools
import json
from collections.abc import Mapping
from pathlib import Path

from ropewalk.core.error import UserError
from ropewalk.core.progress import say_once

BASES = Path(__file__).parent / "bases"
_SHOWN = 3


@functools.cache
def read_sources() -> Mapping[str, Mapping[str, str]]:
    """Where each shipped shape is from, by its name on the hub.

    ``read`` is the day, ``from`` the place, and ``how`` is ``copy`` for a whole file. Else ``how`` says what is known
    otherwise, in a word and a reason.
    """
    found: Mapping[str, Mapping[str, str]] = json.loads((BASES / "sources.json").read_text(encoding="utf-8"))
    return found


def find_shipped(name: str) -> Path | None:
    """The folder of the shape that is shipped under ``name``, which has only a config.json; None without one."""
    return BASES / name if name in read_sources() else None


def tell_shipped(name: str) -> None:
    """Say which shape is used, how old it is, and how to have the hub's own; once, however often a command looks."""
    source = read_sources()[name]
    known = "" if source["how"] == "copy" else f" ({source['how']})"
    say_once(
        f"the shape of {name} is the one that ropewalk ships, of {source['read']}{known}; "
        f"{name}@main reads the hub's instead"
    )


def is_shape_alone(name: str) -> bool:
    """Whether ``name`` leads to a shipped shape, which has no weights, and to no folder."""
    return find_shipped(name) is not None and not Path(name).exists()


def require_weights(name: str) -> None:
    """Raise UserError if ``name`` leads to a shipped shape alone, where weights or a tokenizer are needed."""
    if not is_shape_alone(name):
        return
    raise UserError(
        f"{name} has no weights here",
        where="model",
        why="ropewalk ships its shape, which is enough for check and advise; this part needs weights and a tokenizer",
        fix=f"give {name}@main, or another revision of the hub, or the folder of a copy",
    )


def find_near(name: str) -> list[str]:
    """The shipped names that are most like ``name``, the best first; a name without its organisation is enough."""
    wanted = name.lower()
    shown = {each.lower(): each for each in read_sources()}
    last = {each.rpartition("/")[2]: each for each in shown}
    exact = [last[wanted]] if wanted in last else []
    near = difflib.get_close_matches(wanted, shown, n=_SHOWN, cutoff=0.75)
    near += [last[each] for each in difflib.get_close_matches(wanted.rpartition("/")[2], last, n=_SHOWN, cutoff=0.75)]
    return [shown[each] for each in dict.fromkeys(exact + near)][:_SHOWN]
