"""Versions of packages, also where this project runs from a checkout that was never installed."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

NOT_INSTALLED = "not installed"


def find_version(name: str) -> str:
    """The version of the installed package ``name``, or ``NOT_INSTALLED``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return NOT_INSTALLED


def find_versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of packages, by name."""
    return {name: find_version(name) for name in names}
