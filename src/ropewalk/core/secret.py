"""A key that opens a service, from the environment: a recipe holds the name of its variable, and no file holds the key.

A result never depends on it, so this is no second way to set what a run does.
"""

import os

from ropewalk.core.error import UserError


def read_secret(name: str, *, where: str) -> str:
    """The value of an environment variable. Raises UserError where it is not set, or cannot be sent in a header."""
    value = os.environ.get(name, "").strip()
    if not value or not value.isascii() or not value.isprintable():
        raise UserError(
            f"the environment variable {name} holds no key",
            where=where,
            why="it is not set, or empty" if not value else "it has characters that no key has",
            fix=f"set {name} where ropewalk is started; no file of the run will hold it",
        )
    return value
