"""Exports names of a package that are imported when they are first asked for.

So ``import ropewalk`` is quick and needs no torch, and ``ropewalk.rope.Yarn`` works all the same. A package writes its
names twice: as imports under ``TYPE_CHECKING``, for type checkers and editors, and here, by the module that defines
them. tests/test_public_names.py compares the two.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def export_lazily(
    package: str, names: Mapping[str, tuple[str, ...]], *, folders: tuple[str, ...] = ()
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """``__all__``, ``__getattr__`` and ``__dir__`` of ``package``.

    ``names`` has the exported names by module, relative to the package; ``folders`` are packages inside it. A name must
    not be that of a module of the package, because importing the module would replace it.
    """
    home = {name: f"{package}.{module}" for module, listed in names.items() for name in listed}

    def find(name: str) -> Any:
        if name in folders:
            return import_module(f"{package}.{name}")
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home[name]), name)

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home, *folders})

    return sorted([*home, *folders]), find, list_names
