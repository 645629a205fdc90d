"""Locks a run folder for a recipe, after all checks that could refuse the two.

Under torchrun the first rank does this alone, because the folder is in an intermediate state meanwhile.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ropewalk.commands.check_mix_study import find_unmeasured
from ropewalk.commands.grow import grow, write_recipe
from ropewalk.commands.on_ranks import alone
from ropewalk.commands.plan_growth import plan_growth
from ropewalk.core.artifact import hold, require_free
from ropewalk.core.error import UserError
from ropewalk.core.progress import warn
from ropewalk.core.quantity import format_count
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.stop import heed_stop
from ropewalk.parallel.torchrun import count_started, is_started
from ropewalk.recipe.check import check
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.offer_ranks import offer_ranks
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.shape.find import find_model, require_base
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape

_SMALLEST_FREE_BYTES = 1 << 28


@contextmanager
def claim(recipe: Recipe, folder: RunFolder, *, holds: bool = True) -> Iterator[None]:
    """Hold the run folder for this recipe, after removing the parts that the recipe makes anew.

    A folder that the recipe cannot continue is refused first, with a UserError. ``holds`` is False for a reader, so
    that a report can be made of a run in progress.
    """
    if holds and is_started():
        _require_ranks(recipe)
    with heed_stop(), ExitStack() as held:
        alone(lambda: _take(recipe, folder, held if holds else None))
        yield


def _take(recipe: Recipe, folder: RunFolder, held: ExitStack | None) -> None:
    known = folder.recipe.exists() and folder.holds_work
    growth = plan_growth(recipe, folder) if known else None
    if growth is None or growth.changes:
        _refuse_errors(recipe)
    if held is None:
        return
    if growth is None:
        require_free(folder.root, _SMALLEST_FREE_BYTES)
    held.enter_context(hold(folder.root))
    if growth is None:
        write_recipe(recipe, folder)
    else:  # planned again, because now no other process writes to the folder
        grow(plan_growth(recipe, folder), recipe, folder)


def _require_ranks(recipe: Recipe) -> None:
    started = count_started()
    if recipe.parallel.ranks != started:
        # an offer that is accepted: other context ranks would change the run more than other processes do
        instead = f", or set parallel.ranks={started}" if offer_ranks(recipe, started) == started else ""
        raise UserError(
            f"the recipe needs {format_count(recipe.parallel.ranks, 'rank')}, but torchrun started {started}",
            where="parallel.ranks",
            why="WORLD_SIZE is the number of processes of torchrun (nodes x processes per node), or of Ray's workers",
            fix=f"start {format_count(recipe.parallel.ranks, 'process')}{instead}",
        )


def _refuse_errors(recipe: Recipe) -> None:
    if isinstance(recipe.model, str):
        require_base(recipe.model)  # before a folder is begun that could not be continued with weights
    findings = [*check(recipe, read_base_shape(recipe)), *find_unmeasured(recipe)]
    refuse_findings(findings, fix="correct that key; `ropewalk check RECIPE` checks all rules without starting the run")


def refuse_findings(findings: Sequence[Finding], *, fix: str) -> None:
    """Print each broken rule as a line for people. Raises UserError for the first that is an error.

    ``fix`` is for one that has none of its own.
    """
    for finding in findings:
        warn(str(finding))
    for finding in findings:
        if finding.level == "error":
            raise UserError(
                "the recipe breaks a rule",
                where=finding.key,
                why=f"{finding.message} ({finding.source})",
                fix=finding.fix or fix,
            )


def read_base_shape(recipe: Recipe) -> ModelShape | None:
    """The shape of the base model; None for a model that starts from nothing."""
    if isinstance(recipe.model, ModelSource):
        return None
    return read_shape(find_model(recipe.model, config_only=True))
