"""Turns a YAML file and ``path=value`` overrides into a Recipe, or raises one clear error.

Each error suggests the right spelling where the input allows a guess.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ropewalk.core.error import UserError
from ropewalk.core.progress import say_once
from ropewalk.core.spec import Spec
from ropewalk.core.translate import keep
from ropewalk.recipe.advice import AdviceSpec
from ropewalk.recipe.explain import explain
from ropewalk.recipe.named import find_named, list_recipes
from ropewalk.recipe.plain_yaml import parse_yaml
from ropewalk.recipe.spec import EvaluateSpec, ExportSpec, ImportSpec, Recipe, open_all
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.suffix import YAML

_POINT = r".\1"
_BRACKETS = re.compile(r"\[(\d+)\]")
_MOST_NEAR, _LARGEST_BYTES = 16, 1 << 20
"""Of the files with a similar name: how many are looked at, and up to which size."""
_A_STAGE = r"stages\.\d+"
Part = TypeVar("Part", bound=Spec)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read ``path``, apply overrides such as ``stages.0.lr=1e-5``, and validate. Raises UserError for any fault."""
    return parse_recipe(read_data(path, overrides), where=str(path))


def read_data(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain data of a YAML file with a mapping at the top level: overridden, not validated.

    A bare name such as ``quickstart`` is that of a shipped recipe.

    Raises UserError where the file cannot be read or an override cannot be applied.
    """
    path = find_named(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            "the recipe cannot be read", where=str(path), why=error.strerror or str(error), fix=_find_near(path)
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            "the recipe is not UTF-8", where=str(path), why=str(error), fix="save the file as UTF-8"
        ) from None
    data = parse_yaml(text, where=str(path))
    if not isinstance(data, dict):
        held = {"NoneType": "it is empty", "list": "its top level is a list", "str": "its top level is a text"}
        raise UserError(
            "the recipe is not a mapping",
            where=str(path),
            why=held.get(type(data).__name__, f"its top level is {data!r}"),
            fix="write lines of `key: value`, with a space after the colon; start from a file in recipes/",
        )
    data = {key: _part_aliases(value) for key, value in data.items()}
    before = deepcopy(data)
    for override in overrides:
        apply_override(data, override)
    for line in tell_inherited(before, data, overrides):
        say_once(line)
    return data


def tell_inherited(before: Any, after: Any, overrides: Sequence[str]) -> Iterator[str]:
    """One line for each override of a ``kind`` that leaves keys of the former kind beside the new one."""
    named = [override.partition("=")[0] for override in overrides]
    for place in (name.removesuffix(".kind") for name in named if name.endswith(".kind")):
        old, new = _find(before, place), _find(after, place)
        if not isinstance(old, dict) or not isinstance(new, dict) or old.get("kind") == new.get("kind"):
            continue
        kept = {key: value for key, value in old.items() if key != "kind" and new.get(key) == value}
        kept = {key: value for key, value in kept.items() if f"{place}.{key}" not in named}
        if kept:
            told = ", ".join(f"{key}: {value}" for key, value in kept.items())
            yield f"{place}: {new['kind']} inherits {told} from the file; {place}={{kind: {new['kind']}}} leaves it out"


def _find(data: Any, place: str) -> Any:
    """The value at a path of plain data; None if there is none."""
    for key in place.split("."):
        if isinstance(data, list) and key.isdigit() and int(key) < len(data):
            data = data[int(key)]
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return data


def _part_aliases(data: Any) -> Any:
    """A copy of the data without shared objects.

    An override must not change two keys that share a value by a YAML alias.
    """
    if isinstance(data, dict):
        return {key: _part_aliases(value) for key, value in data.items()}
    return [_part_aliases(value) for value in data] if isinstance(data, list) else data


def parse_recipe(data: Any, *, where: str) -> Recipe:
    """Validate plain data as a Recipe. Raises UserError, which names the key of every fault."""
    if isinstance(data, dict) and {"arms", "vary"} & data.keys() and "stages" not in data:
        raise UserError("this is a study", where=where, why="it has arms and no stages", fix=f"ropewalk sweep {where}")
    return parse_as(Recipe, data, where=where)


def parse_as(kind: type[Part], data: Any, *, where: str, called: str = "recipe") -> Part:
    """Validate plain data as a spec of any kind. Raises UserError, which names the key of every fault."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise explain(error, kind=kind, data=data, where=where, called=called) from None


def parse_stage(overrides: Sequence[str]) -> Stage:
    """Make one stage from overrides alone, for verbs that get a model folder instead of a recipe."""
    # Extending does not use the keys that only training needs, so they get values that validate.
    return _parse_alone(Stage, overrides, {"tokens": 1, "step_tokens": 1, "lr": 1}, place=_A_STAGE)


def parse_advice(overrides: Sequence[str]) -> AdviceSpec:
    """Make the input of ``ropewalk advise`` from overrides alone."""
    return _parse_alone(AdviceSpec, overrides, {}, place=_A_STAGE)


def parse_export(overrides: Sequence[str]) -> ExportSpec:
    """Make the settings of an export without a recipe from overrides alone."""
    return _parse_alone(ExportSpec, overrides, {}, place="export")


def parse_evaluate(overrides: Sequence[str], data: dict[str, Any]) -> EvaluateSpec:
    """Read the keys of ``evaluate`` alone, for a model without a recipe; ``data`` holds those of a suite."""
    return _parse_alone(EvaluateSpec, overrides, data, place="evaluate")


def parse_import(overrides: Sequence[str]) -> ImportSpec:
    """Make the settings of ``ropewalk import`` from overrides alone."""
    return _parse_alone(ImportSpec, overrides, {}, place="import")


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set ``a.b.0.c=value`` inside plain data, in place. The value is parsed as YAML.

    Raises UserError where the override has no ``=`` or its path does not fit the data.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(
            f"{keep(repr(override))} is not an override",
            where="the command line",
            why="it has no =" if not equals else "it has no key before its =",
            fix="write path=value without spaces around the =, such as stages.0.lr=1e-5",
        )
    if _BRACKETS.search(path):
        raise UserError(
            f"{keep(repr(override))} does not lead to a key",
            where="the command line",
            why="write the position in a list as a key of its own",
            fix=f"write {keep(f'{_BRACKETS.sub(_POINT, path)}={text}')}",
        )
    *parents, last = path.split(".")
    place: Any = data
    for key in parents:
        place = _step_into(place, key, override)
    value = parse_yaml(text, where=keep(override))
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _find_near(path: Path) -> str:
    """A hint about the file that the user probably meant by a path that cannot be read."""
    is_folder = _is_folder(path)
    folder = path if is_folder else path.parent
    there = sorted(file.name for file in folder.iterdir() if file.suffix in YAML) if _is_folder(folder) else []
    names = there if is_folder else difflib.get_close_matches(path.name, there, n=_MOST_NEAR)
    if is_folder and (path / "config.json").is_file():
        return "it is a model folder: give the recipe that made it"
    near = next((folder / name for name in names[:_MOST_NEAR] if _may_be_recipe(folder / name)), None)
    if near is not None:
        return f"did you mean {near}?"
    named = difflib.get_close_matches(path.stem, list_recipes(), n=1)
    if named:
        return f"did you mean {named[0]}, which ships with ropewalk?"
    return "give the path of a .yaml file, or a shipped recipe, such as quickstart (docs/recipes.md lists all)"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long for the disk
        return False


def _may_be_recipe(path: Path) -> bool:
    """Whether a file is a recipe or a study, perhaps with wrong keys, and no other YAML, such as one of Kubernetes."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return False
        data = parse_yaml(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError, UserError):
        return False
    return isinstance(data, dict) and bool(data.keys() & {"stages", "arms", "vary"})


def _parse_alone(kind: type[Part], overrides: Sequence[str], data: dict[str, Any], *, place: str) -> Part:
    """A part of a recipe from overrides on ``data``; ``place`` is a pattern of where it stands in a recipe.

    Raises UserError for a key with its place, as a recipe has it: without a recipe there is one way to write a key.
    """
    for override in overrides:
        placed = re.match(rf"({place})\.(.+)", override)
        if placed is not None:
            raise UserError(
                f"{keep(repr(override))} is a key of a recipe",
                where="the command line",
                why=f"a recipe is not given here, so a key stands without {placed[1]}.",
                fix=f"write {placed[2]}",
            )
        apply_override(data, override)
    return parse_as(kind, data, where="the overrides on the command line")


def _step_into(place: Any, key: str, override: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, key, override)]
    inner = place.setdefault(key, {})
    if key == "parallel":
        inner = place[key] = open_all(inner)  # ``auto`` as a whole stays so for the keys that are not overridden
    if not isinstance(inner, dict | list):
        raise UserError(
            f"{keep(repr(override))} does not lead to a key",
            where="the command line",
            why=f"{key!r} is {inner!r}, which has no keys",
            fix="override the whole key",
        )
    return inner


def _index(place: list[Any], key: str, override: str) -> int:
    if key.isdigit() and int(key) < len(place):
        return int(key)
    raise UserError(
        f"{keep(repr(override))} does not lead to a key",
        where="the command line",
        why=f"{key!r} is not one of the positions 0 to {len(place) - 1}",
        fix="use one of these positions" if key.isdigit() else f"write the position before the key, such as 0.{key}",
    )
