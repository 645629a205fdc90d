"""Prints what starts a recipe on many machines: for Slurm, Kubernetes, Kubeflow, SkyPilot or Ray.

Nothing is submitted here. Every kind prepares the corpus first, where it can on CPUs alone, and then starts torchrun
on every machine (parallel/elastic.py), which does all parts: training, evaluation, export and report. The scheduler's
warning reaches the ranks as SIGTERM. They save and exit, and the job starts again and continues from there. All
machines must see the run folder.
"""

import difflib
import re
import shlex
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ropewalk.commands.launch_cloud import write_ray, write_sky
from ropewalk.commands.launch_kubernetes import write_job, write_train_job
from ropewalk.commands.launch_slurm import write_slurm
from ropewalk.commands.launch_target import STOP_SECONDS, Target
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.plan.calibration import is_calibration
from ropewalk.recipe.hardware_keys import read_hardware
from ropewalk.recipe.named import find_named
from ropewalk.recipe.offer_ranks import group_ranks, offer_ranks
from ropewalk.recipe.parallel import require_even
from ropewalk.recipe.spec import Recipe
from ropewalk.shape.shipped import require_weights

KINDS: dict[str, Callable[[Target], str]] = {
    "slurm": write_slurm,
    "k8s": write_job,
    "kubeflow": write_train_job,
    "sky": write_sky,
    "ray": write_ray,
}
_OTHER_NAMES = {
    "kubernetes": "k8s", "kubectl": "k8s", "eks": "k8s", "gke": "k8s", "trainjob": "kubeflow", "pytorchjob": "kubeflow",
    "skypilot": "sky", "sbatch": "slurm",
}  # fmt: skip
"""What people type for a kind."""
_ONLY = {"image": ("k8s", "kubeflow", "sky"), "exclusive": ("slurm",), "time": ("slurm",), "prepare_jobs": ("slurm",)}
"""The kinds that can use what only some of them can."""
_LONGEST_NAME = 40
_GPU_CPUS, _GPU_GIB, _CPU_GIB = 8, 64, 4
"""Processors and memory of a rank with a GPU, and memory of one without, where nobody gave them."""
_PREPARE_CPUS, _PREPARE_GIB = 16, 64
"""The most that the preparation asks for, which no machine of the training need be: 4 GiB a process is ample."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked for besides the recipe; None is decided here."""

    nodes: int
    image: str = "ropewalk:latest"
    cpus: int | None = None
    memory_gib: int | None = None
    exclusive: bool = True
    time: str = "24:00:00"
    prepare_jobs: int = 1


def write_script(
    kind: str, recipe: Recipe, *, argument: Path, overrides: list[str], options: Sequence[str] = (), asked: Asked
) -> dict[str, Any]:
    """The text that starts ``recipe`` (read from ``argument``, with these overrides) as a job of ``kind``.

    ``options`` are those that each command of the job gets, such as ``--quiet``.

    Raises UserError where the ranks cannot be divided evenly over the machines or do not fit on them, for an unknown
    kind, and for what the kind cannot use.
    """
    _require_kind(kind, argument)
    if isinstance(recipe.model, str):
        require_weights(recipe.model)  # the job would end with 2 when its machines have come
    _require_place(recipe, asked)
    _require_use(kind, asked)
    for given in (str(argument), recipe.run, asked.image, *overrides):
        if "\n" in given or "\r" in given:
            raise UserError(
                "a line break cannot be passed on to a job",
                where=repr(given),
                why="each command of the job is one line",
                fix="write it into the recipe's file, or name the file without it",
            )
    local = recipe.parallel.ranks // asked.nodes
    gpus = recipe.parallel.device != "cpu"
    cpus = asked.cpus or (_GPU_CPUS if gpus else 1) * local
    memory_gib = asked.memory_gib or (_GPU_GIB if gpus else _CPU_GIB) * local
    here = kind == "slurm" and find_named(argument) == argument
    target = Target(
        name=name_job(Path(recipe.run).name),
        nodes=asked.nodes,
        local=local,
        gpus=gpus,
        device=_name_device(recipe),
        cpus=cpus,
        memory_gib=memory_gib,
        prepare_cpus=min(cpus, _PREPARE_CPUS),
        prepare_gib=min(memory_gib, _PREPARE_GIB),
        whole_memory=asked.exclusive and asked.memory_gib is None,
        exclusive=asked.exclusive,
        time=asked.time,
        prepare_jobs=asked.prepare_jobs,
        restarts=recipe.parallel.restarts,
        image=asked.image,
        arguments=shlex.join([str(argument.resolve() if here else argument), *overrides, *options]),
    )
    text = KINDS[kind](target)
    return {
        "scheduler": kind,
        "nodes": asked.nodes,
        "ranks_per_node": local,
        "stop_seconds": STOP_SECONDS,
        "script": text,
        "text": text.rstrip(),
    }


def _require_kind(kind: str, argument: Path) -> None:
    """Raise UserError for a scheduler that there is not, with the one that was probably meant."""
    if kind not in KINDS:
        near = [_OTHER_NAMES[kind]] if kind in _OTHER_NAMES else difflib.get_close_matches(kind, KINDS, n=1)
        raise UserError(
            f"unknown scheduler {kind!r}",
            where="the command line",
            why=f"there are {', '.join(KINDS)}",
            fix=f"ropewalk launch {(near or [*KINDS])[0]} {shlex.quote(str(argument))}, or start torchrun on every "
            "machine yourself (docs/launch.md)",
        )


def _require_use(kind: str, asked: Asked) -> None:
    """Raise UserError where something was asked for that the kind would drop."""
    for field in fields(Asked):
        kinds = _ONLY.get(field.name, tuple(KINDS))
        if kind not in kinds and getattr(asked, field.name) != field.default:
            option = "--shared" if field.name == "exclusive" else f"--{field.name.replace('_', '-')}"
            raise UserError(
                f"{option} has no meaning for {kind}",
                where=option,
                why=f"it is for {', '.join(kinds)}",
                fix=f"leave {option} out, and set it where the file is submitted",
            )


def name_job(run: str) -> str:
    """A name that every scheduler accepts: lower case, digits and dashes, a letter first, at most 40 of them."""
    plain = unicodedata.normalize("NFKD", run.lower()).encode("ascii", "ignore").decode()
    return ("ropewalk-" + re.sub(r"[^a-z0-9]+", "-", plain))[:_LONGEST_NAME].strip("-")


def _name_device(recipe: Recipe) -> str | None:
    """The device of the table that the recipe names; a file of measured rates names none."""
    device = None if recipe.hardware is None else read_hardware(recipe.hardware).device
    return None if device is None or is_calibration(device) else device


def _offer_place(recipe: Recipe, nodes: int, devices: int | None) -> str:
    """The nearest number of machines that takes the recipe's ranks, and the nearest number of ranks for ``nodes``.

    ``devices`` are those of a machine; None where the recipe does not say.
    """
    ranks, group, offers = recipe.parallel.ranks, group_ranks(recipe.parallel), list[str]()
    if ranks % group == 0:
        taking = [count for count in range(1, ranks + 1) if ranks % count == 0 and ranks // count <= (devices or ranks)]
        offers.append(f"--nodes {min(taking, key=lambda count: abs(count - nodes))}")
    most = None if devices is None else nodes * devices
    if nodes > 0 and (other := offer_ranks(recipe, ranks, nodes=nodes, most=most)) is not None:
        offers.append(f"parallel.ranks={other}")
    return ", or ".join(offers) or f"a multiple of {group} as parallel.ranks, and machines that have so many devices"


def _require_place(recipe: Recipe, asked: Asked) -> None:
    ranks, nodes = recipe.parallel.ranks, asked.nodes
    devices = None if recipe.hardware is None else read_hardware(recipe.hardware).count
    offer = _offer_place(recipe, nodes, devices)
    require_even(ranks, context=recipe.parallel.context_parallel, replicas=recipe.parallel.replicas, offer=offer)
    if nodes < 1 or ranks % nodes:
        raise UserError(
            f"{format_count(ranks, 'rank')} cannot be divided among {format_count(nodes, 'machine')}",
            where="parallel.ranks and --nodes",
            why="every machine must run the same number of ranks",
            fix=offer,
        )
    if devices is not None and ranks // nodes > devices:
        raise UserError(
            f"{format_count(ranks // nodes, 'rank')} do not fit on a machine of {format_count(devices, 'device')}",
            where="hardware and --nodes",
            why=(
                f"{format_count(ranks, 'rank')} on {format_count(nodes, 'machine')}, and the recipe names "
                f"{recipe.hardware}"
            ),
            fix=offer,
        )
    for option, value in (
        ("--cpus", asked.cpus),
        ("--memory", asked.memory_gib),
        ("--prepare-jobs", asked.prepare_jobs),
    ):
        if value is not None and value < 1:
            raise UserError(
                f"{option} {value} is not a count", where=option, why="it must be 1 or more", fix=f"leave {option} out"
            )
