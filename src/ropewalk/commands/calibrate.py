"""``ropewalk check --calibrate FILE``: measures this machine with a recipe's ranks, for plans of it."""

from pathlib import Path

from ropewalk.commands.decide_open import read_any_shape, settle_given
from ropewalk.commands.on_ranks import on_ranks
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.parallel.torchrun import is_started
from ropewalk.plan.calibration import Calibration, is_calibration, write_calibration
from ropewalk.plan.rank_setup import set_up_ranks
from ropewalk.recipe.spec import Recipe


def calibrate_machine(recipe: Recipe, out: Path) -> Recipe:
    """Measure this machine, write its rates to ``out``, and return ``recipe`` with them as its hardware.

    Raises UserError where ``out`` is no .json, or where torchrun started this process.
    """
    if is_started():
        raise UserError(
            "torchrun started this process",
            where="--calibrate",
            why="`check` starts its own ranks",
            fix=f"ropewalk check RECIPE --calibrate {out}, without torchrun",
        )
    if not is_calibration(str(out)) or not out.parent.is_dir():
        raise UserError(
            "the rates cannot be written there",
            where=str(out),
            why="a recipe knows a file of rates by its .json" if out.parent.is_dir() else f"{out.parent} is no folder",
            fix="ropewalk check RECIPE --calibrate machine.json",
        )
    own = recipe.model_copy(update={"hardware": None, "nodes": None})
    ranks, shape = settle_given(own).recipe.parallel.ranks, read_any_shape(recipe)
    heads = shape.heads, shape.kv_heads, shape.head_dim
    found = on_ranks(calibrate_on_rank, ranks, ranks, *heads, setup=set_up_ranks(recipe.parallel, shape))
    write_calibration(out, found)
    say(found.describe())
    return own.model_copy(update={"hardware": str(out)})


def calibrate_on_rank(ranks: int, heads: int, kv_heads: int, head_dim: int) -> Calibration:
    """Measure on one of the ranks."""
    from ropewalk.parallel.measure_machine import calibrate_rank

    return calibrate_rank(ranks, heads, kv_heads, head_dim)
