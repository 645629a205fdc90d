"""Finds the recipes that ship with the package, by their names, so that an installed package needs no repository.

They are the files of recipes/ in the repository; ``ropewalk/recipes`` is a link to that folder, and a wheel holds their
copies. A file of the user goes before a shipped one of the same name.
"""

from pathlib import Path

from ropewalk.recipe.suffix import YAML

_TINY_BASE = "tiny-base"
_SHIPPED = Path(__file__).parents[1] / "recipes"


def list_recipes() -> list[str]:
    """The names of all shipped recipes and studies."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def find_shipped_recipe(name: str) -> Path:
    """The file of a shipped recipe or study; it may not exist."""
    return _SHIPPED / f"{name}.yaml"


def is_recipe(path: Path) -> bool:
    """Whether an argument that may also be a model is a recipe: a .yaml file, or the bare name of a shipped one.

    ``tiny-base`` is both the packaged base and its recipe; here it is the base.
    """
    return path.suffix in YAML or (find_named(path) != path and str(path) != _TINY_BASE)


def find_named(path: Path) -> Path:
    """The shipped file of a bare name such as ``quickstart``; ``path`` itself for all else.

    The disk is asked about shipped names alone: a long override, which a command line has too, is no name of a file.
    """
    bare = path.name == str(path) and path.suffix not in YAML
    return find_shipped_recipe(str(path)) if bare and str(path) in list_recipes() and not path.exists() else path
