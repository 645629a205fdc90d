"""Many runs of one recipe that differ in a few keys: every arm of a study, at every axis value, with every seed.

A sweep's file contains only names and overrides. This file makes its cells comparable: at each value of an axis, all
arms have the same corpus, the same order of sequences for a seed, and the same evaluation, and so does the base.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from ropewalk.core.error import UserError
from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.recipe.load import parse_as, parse_recipe, read_data
from ropewalk.recipe.named import find_named, find_shipped_recipe
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.recipe.suffix import YAML
from ropewalk.recipe.vary import Range, Value, make_arms

Kind = Literal["base", "zero-shot", "trained"]
Overrides = tuple[str, ...]
_OWN_KEYS = ("seed", "run")  # the seeds set ``seed``, and the study's folder sets ``run``
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a name becomes the name of a folder


class Prune(Spec):
    """A rule for hopeless arms: another arm at the same axis values was better in each of the first seeds."""

    seeds: PositiveCount = 1
    """Seeds that every arm gets."""
    far_nats: float = Field(default=0.02, ge=0)
    """The other arm's loss at the far end was lower by more than this."""
    short: float = Field(default=0.002, ge=0)
    """And its loss at the base's length was not higher by more than this share."""


class RayTasks(Spec):
    """Processes of a study on a Ray cluster whose machines see the study's folder."""

    tasks: PositiveCount
    """How many at once; they share the cells."""
    cpus: PositiveCount = 1
    """Cores that a task takes: one for each rank of the recipe."""
    gpus: Count = 0
    """GPUs that a task takes, likewise."""


class Sweep(Spec):
    """A study: ``recipe`` with each arm's overrides, times each axis's, times the seeds."""

    recipe: str
    """A recipe's file, beside this one, or the name of a shipped recipe."""
    study: str
    """The folder of the cells and of ``results.json``."""
    overrides: Overrides = ()
    """Overrides of the recipe that all cells have."""
    arms: dict[str, Overrides] = Field(default_factory=dict)
    """The arms that are compared: name and overrides of each. The first one is the reference of contrasts."""
    vary: dict[str, Annotated[list[Value], Field(min_length=1)] | Range] = Field(default_factory=dict)
    """Instead of ``arms``: keys with their values, as in ``stages.0.lr: [1e-5, 2e-5]``. Every combination is an arm."""
    draw: PositiveCount | None = None
    """With ``vary``: draw so many different combinations instead of all; a key may then be a range."""
    draw_seed: int = 0
    """Another seed draws other combinations."""
    axes: dict[str, Annotated[dict[str, Overrides], Field(min_length=1)]] = Field(default_factory=dict)
    """Each arm is run with each value of each axis, such as ``length: {4x: [stages.0.context_length=2Ki]}``."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Each seed draws a new order of sequences and new evaluation prompts; the corpus stays the same."""
    base: bool = True
    """Also measure the unchanged base, with each seed at each axis value, on the same inputs as the arms there."""
    zero_shot: bool | Literal["every_seed"] = True
    """Also measure each arm's model before training: with the first seed, because no training happens, or with
    ``every_seed``, on the prompts that the trained arms of that seed get."""
    prune: Prune | None = None
    """Leave the later seeds of hopeless arms out (docs/study.md); null runs every seed of every arm."""

    ray: RayTasks | None = None
    """Do the cells on a Ray cluster; null does them here, and on each machine where the command is started."""

    @model_validator(mode="after")
    def _check_arms(self) -> "Sweep":
        if bool(self.arms) == bool(self.vary):
            raise ValueError("arms: give either arms or vary" if self.arms else "arms: give arms, or vary")
        if self.draw is not None and not self.vary:
            raise ValueError("draw: there is no `vary` to draw from")
        if self.prune is not None and self.prune.seeds >= len(self.seeds):
            raise ValueError(
                f"prune.seeds: {self.prune.seeds} of {len(self.seeds)} seeds, so that no later seed could be left out"
            )
        if self.prune is not None and not self.base:
            raise ValueError("prune: short-context loss is judged against the base; write base: true")
        return self

    @property
    def every_arm(self) -> dict[str, Overrides]:
        """The arms that the file names, or those of ``vary``."""
        return self.arms or make_arms(self.vary, draw=self.draw, seed=self.draw_seed)

    @model_validator(mode="after")
    def _check_names(self) -> "Sweep":
        for name in (*self.every_arm, *self.axes, *(value for axis in self.axes.values() for value in axis)):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} becomes the name of a folder: it begins with a letter or digit; then "
                    f"letters, digits, and . _ - are allowed"
                )
            if name in get_args(Kind):
                raise ValueError(f"{name!r} is already the name of a kind of cell; choose another name")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} contain one seed twice")
        return self


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a study. ``arm`` is None for the unchanged base."""

    kind: Kind
    arm: str | None
    choices: dict[str, str]
    """Name of each axis -> name of the chosen value."""
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """The cell's name, such as ``seed-7/4x/yarn/trained``; also its folder within the study's folder."""
        return "/".join([f"seed-{self.seed}", *self.choices.values(), *([self.arm] if self.arm else []), self.kind])


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> tuple[Sweep, list[Cell]]:
    """Read a study's file, apply overrides such as ``seeds=[1]``, and return the study and all its cells.

    Raises UserError where the file is not a valid study, or where two cells are the same run.
    """
    path = find_named(path)
    data = read_data(path, overrides)
    if "stages" in data and not {"arms", "vary"} & data.keys():
        raise UserError(
            "this is a recipe, not a study",
            where=str(path),
            why="it has stages and no arms",
            fix=f"ropewalk run {path}, or write a file that names it and its arms (docs/study.md)",
        )
    sweep = parse_as(Sweep, data, where=str(path), called="study")
    return sweep, list(_multiply(sweep, path))


def _multiply(sweep: Sweep, path: Path) -> Iterator[Cell]:
    """All cells, seed by seed; cells without training come first."""
    recipe_path = _find_recipe(path, sweep.recipe)
    unchanged = parse_recipe(
        read_data(recipe_path, sweep.overrides), where=f"{path}, with its overrides of {recipe_path}"
    )
    if sweep.base and isinstance(unchanged.model, ModelSource):
        raise UserError(
            "a model that starts from random weights has no base to measure",
            where=f"{path}, base",
            why="the recipe's model is {init: ...}",
            fix="write base: false",
        )
    points = list(_points(sweep, path))
    seen: dict[str, str] = {}
    for seed in sweep.seeds:
        cells: dict[Kind, list[Cell]] = {"base": [], "zero-shot": [], "trained": []}
        for arm, choices, chosen in points:
            recipe = _resolve(sweep, recipe_path, chosen, seed=seed, where=f"{path}, arm {arm or 'base'}")
            if arm is None:
                cells["base"].append(_place(Cell("base", None, choices, seed, recipe), sweep))
                continue
            cell = _place(Cell("trained", arm, choices, seed, recipe), sweep)
            if recipe.digest in seen:
                raise UserError(
                    "two cells are the same run",
                    where=f"{path}, {seen[recipe.digest]} and {cell.name}",
                    why="their overrides lead to the same recipe",
                    fix="remove one of them, or correct its overrides",
                )
            seen[recipe.digest] = cell.name
            cells["trained"].append(cell)
            if sweep.zero_shot == "every_seed" or (sweep.zero_shot and seed == sweep.seeds[0]):
                cells["zero-shot"].append(_place(replace(cell, kind="zero-shot"), sweep))
        yield from itertools.chain.from_iterable(cells.values())


def _find_recipe(study: Path, recipe: str) -> Path:
    """The recipe that a study names: a file beside it or here, else the one of that name that ships with ropewalk."""
    for there in (study.parent / recipe, Path(recipe)):
        if there.is_file():
            return there
    named = Path(recipe)
    shipped = find_shipped_recipe(named.stem if named.suffix in YAML else named.name)
    return shipped if named.name == recipe and shipped.is_file() else named


def _points(sweep: Sweep, path: Path) -> Iterator[tuple[str | None, dict[str, str], Overrides]]:
    """(arm, value of each axis, all their overrides); arm None is the base, which an axis may give another corpus.

    Raises UserError where two overrides set the same key.
    """
    for values in itertools.product(*(axis.items() for axis in sweep.axes.values())):
        choices = {axis: name for axis, (name, _) in zip(sweep.axes, values, strict=True)}
        shared = tuple(override for _, of_value in values for override in of_value)
        if sweep.base:
            yield None, choices, shared
        for arm, own in sweep.every_arm.items():
            keys = [*_OWN_KEYS, *(override.partition("=")[0] for override in (*own, *shared))]
            for one, other in itertools.permutations(keys, 2):
                if f"{other}.".startswith(f"{one}."):
                    raise UserError(
                        f"{one} is set twice",
                        where=f"{path}, arm {arm} at {', '.join(choices.values()) or 'its only point'}",
                        why="arms, axes and seeds must set different keys, so that the name of a cell tells what was "
                        "run",
                        fix="set it in one place",
                    )
            yield arm, choices, (*own, *shared)


def _resolve(sweep: Sweep, recipe_path: Path, chosen: Overrides, *, seed: int, where: str) -> Recipe:
    recipe = parse_recipe(read_data(recipe_path, (*sweep.overrides, *chosen)), where=where)
    corpus = recipe.corpus.model_copy(update={"seed": recipe.corpus_seed})
    asked = recipe.evaluate.model_copy(update={"seed": recipe.evaluate.seed + seed})
    return recipe.model_copy(update={"seed": seed, "corpus": corpus, "evaluate": asked})


def _place(cell: Cell, sweep: Sweep) -> Cell:
    """The cell with its run folder in its recipe; the digest ignores the folder."""
    recipe = cell.recipe.model_copy(update={"run": str(Path(sweep.study) / "cells" / cell.name)})
    return replace(cell, recipe=recipe)
