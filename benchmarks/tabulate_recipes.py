"""Write the table of shipped recipes in docs/recipes.md anew, with their plans on H100 and H200.

python benchmarks/tabulate_recipes.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from page_tables import write_tables
from ropewalk.core.quantity import format_amount, format_length, format_seconds
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.totals import total_up
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape
from ropewalk.shape.shipped import find_shipped

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
HEAD = (
    "| recipe | base | from, to | trained | GPUs | time on H100 | GPU hours, H100 | GPU hours, H200 | dollars |",
    "|---|---|---|---|---|---|---|---|---|",
)


class Row(NamedTuple):
    """A recipe in the table; ``hours`` are those of all GPUs, of training and evaluation, by device."""

    name: str
    base: str
    lengths: str
    trained: str
    ranks: int
    seconds: float
    hours: tuple[float, float]
    dollars: float | None

    def spell(self) -> str:
        cells = (f"`{self.name}`", self.base, self.lengths, self.trained, str(self.ranks), format_seconds(self.seconds))
        money = "" if self.dollars is None else f"{self.dollars:,.0f}"
        return f"| {' | '.join(cells)} | {self.hours[0]:,.0f} | {self.hours[1]:,.0f} | {money} |"


def read_recipe(path: Path) -> tuple[Recipe, ModelShape] | None:
    """A shipped recipe with the shape of its base; None for a study, and for one whose base is not a shipped shape."""
    if path.stem.startswith("study-"):
        return None
    recipe = load_recipe(path)
    name = recipe.model.partition("@")[0] if isinstance(recipe.model, str) else ""
    shipped = find_shipped(name)
    return None if shipped is None else (recipe.model_copy(update={"model": name}), read_shape(shipped))


def plan_row(name: str, recipe: Recipe, shape: ModelShape) -> Row:
    """The row of a recipe, by its plan on the devices that it names, and on H200 in their place."""
    last = recipe.stages[-1]
    there = forecast_recipe(recipe, shape)
    count = str(recipe.hardware).rpartition(" x ")[2]
    later = recipe.model_copy(update={"hardware": f"h200-sxm x {count}"})
    totals, others = total_up(recipe, shape, there), total_up(later, shape, forecast_recipe(later, shape))
    tokens = sum(stage.tokens for stage in recipe.stages)
    how = " adapters" if last.lora is not None else ""
    return Row(
        name=name,
        base=str(recipe.model),
        lengths=f"{format_length(shape.context_tokens)}, {format_length(last.context_length)}",
        trained=format_amount(tokens) + how,
        ranks=recipe.parallel.ranks,
        seconds=totals.training_seconds + totals.evaluation_seconds,
        hours=(totals.device_hours, others.device_hours),
        dollars=totals.dollars,
    )


def list_rows() -> Iterator[Row]:
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        found = read_recipe(path)
        if found is not None:
            yield plan_row(path.stem, *found)


if __name__ == "__main__":
    write_tables(PAGE, "\n".join([*HEAD, *(row.spell() for row in list_rows())]), "recipes")
