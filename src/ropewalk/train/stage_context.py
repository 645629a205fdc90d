"""The settings of one stage on one rank. They are made once, from the recipe, when the rank begins the stage."""

from dataclasses import dataclass, replace
from pathlib import Path

from ropewalk.core.digest import digest_value
from ropewalk.core.run_folder import RunFolder, StageFolder
from ropewalk.parallel.mesh import Mesh, make_mesh
from ropewalk.partition.choose import Sharing
from ropewalk.plan.precision import choose_precision
from ropewalk.plan.savings import Savings
from ropewalk.plan.sharing import plan_sharing
from ropewalk.recipe.parallel import Parallel
from ropewalk.recipe.part_digests import pick_lesson
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape
from ropewalk.train.fit_device import fit_device


@dataclass(frozen=True)
class StageContext:
    """The settings of one stage on this rank, the same from its first step to its last."""

    number: int
    """The stage's place among the stages of the recipe."""
    spec: Stage
    parallel: Parallel
    mesh: Mesh
    precision: str
    """The precision of matrix products that ``parallel.precision`` gives on this device."""
    savings: Savings
    """How the stage saves memory."""
    sharing: Sharing
    """How attention may be shared among the ranks of a sequence."""
    shape: ModelShape
    """The shape of the model that the stage starts from."""
    folder: StageFolder
    """Holds the model that the stage starts from, its checkpoints, its skipped steps."""
    metrics: Path
    """The run's ``metrics.jsonl``."""
    seed: int
    settings_digest: str
    """The digest of all settings that decide the content of the stage's steps."""
    moments: Path | None
    """The checkpoints whose optimizer moments are carried into the stage; None where it begins with fresh ones."""
    moments_misfit: str | None
    """Why the stage begins with fresh moments although there are some and ``carry_moments`` is true."""

    @property
    def is_first_rank(self) -> bool:
        """True on the rank that prints and writes for all."""
        return self.mesh.rank == 0


def make_context(recipe: Recipe, number: int, *, run: Path) -> StageContext:
    """Return the settings of stage ``number`` of the run in the folder ``run``. Every rank must call it."""
    spec, parallel, folder = recipe.stages[number], recipe.parallel, RunFolder(run).stage(number)
    mesh = make_mesh(parallel.ranks, parallel.context_parallel, replicas=parallel.replicas)
    shape = read_shape(folder.extended)
    fit = fit_device(parallel, spec, shape)
    asked = number > 0 and spec.carry_moments
    misfit = find_moments_misfit(spec, recipe.stages[number - 1]) if asked else None
    return StageContext(
        number=number,
        spec=spec,
        parallel=parallel,
        mesh=mesh,
        precision=choose_precision(parallel.precision, device=mesh.device.type),
        savings=fit.savings,
        sharing=choose_sharing(parallel, shape, mesh, held_tokens=fit.held_tokens),
        shape=shape,
        folder=folder,
        metrics=RunFolder(run).metrics,
        seed=recipe.seed,
        settings_digest=digest_value(pick_lesson(recipe, number)),
        moments=RunFolder(run).checkpoints(number - 1) if asked and misfit is None else None,
        moments_misfit=misfit,
    )


def find_moments_misfit(spec: Stage, before: Stage) -> str | None:
    """Why the moments of the stage ``before`` are not those of the weights that ``spec`` trains; None where they are.

    The adapters of a stage are merged at its end, and a layer with another mixer has other weights.
    """
    if spec.lora is not None:
        return "it trains new adapters (lora)"
    if before.lora is not None:
        return "the stage before trained adapters (lora)"
    return "some of its layers have another mixer" if spec.converts else None


def choose_sharing(parallel: Parallel, shape: ModelShape, mesh: Mesh, *, held_tokens: float | None = None) -> Sharing:
    """Return ``plan_sharing`` for a model of ``shape`` on this kind of device.

    ``held_tokens`` is the room for keys of other ranks (``fit_device``).
    """
    narrow = choose_precision(parallel.precision, device=mesh.device.type) == "bfloat16"
    sharing = plan_sharing(parallel, shape, device=mesh.device.type, element_bytes=2 if narrow else 4)
    return replace(sharing, held_tokens=held_tokens)
