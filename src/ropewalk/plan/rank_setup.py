"""The setup that ranks start with: their kind of device, and whether their results repeat bit for bit.

A rank has a GPU of its own or runs on the CPU. Two ranks never share a GPU: NCCL refuses them, and each would plan with
all of its memory. This file only decides; parallel/launch.py starts the ranks so.
"""

from dataclasses import dataclass
from typing import Literal

from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.recipe.offer_ranks import group_ranks
from ropewalk.recipe.parallel import Parallel
from ropewalk.shape.model_shape import ModelShape

Kind = Literal["cpu", "cuda"]

MESSAGE_SECONDS = 600.0
"""The timeout of a message between ranks. It is longer than a hang's usual limit, since only that names the rank."""
_LONGER_THAN_HANG = 1.25
SMALL_PARAMETERS = 20_000_000
"""A model of at most so many parameters is trained on a CPU in minutes, so it may be, where GPUs are too few."""


@dataclass(frozen=True, slots=True)
class RankSetup:
    """How ranks are to start. ``small`` says that the model may be trained on a CPU if there are too few GPUs.

    The number of ranks must be a multiple of ``group``; what errors offer is. ``message_seconds`` is the timeout of a
    message between them.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    small: bool = False
    deterministic: bool = False
    group: int = 1
    message_seconds: float = MESSAGE_SECONDS


def set_up_ranks(parallel: Parallel, shape: ModelShape) -> RankSetup:
    """Return the setup of a recipe's ranks for a model of ``shape``.

    Messages may take longer than the longest step that is no hang: on a GPU the host queues those of a whole step
    ahead, and NCCL counts the time from then.
    """
    small = shape.parameters <= SMALL_PARAMETERS
    message_seconds = max(MESSAGE_SECONDS, _LONGER_THAN_HANG * (parallel.hang_seconds or 0.0))
    return RankSetup(parallel.device, small, parallel.deterministic, group_ranks(parallel), message_seconds)


def choose_kind(setup: RankSetup, *, ranks: int, gpus: int, without: str = "the driver shows none") -> tuple[Kind, str]:
    """Return the kind of device of ``ranks`` ranks on a machine with ``gpus`` GPUs, and a line for the user or "".

    ``without`` is the reason why there is no GPU. Raises UserError where the recipe asks for GPUs and there is none,
    and where there are fewer GPUs than ranks and the model is not small.
    """
    if setup.device == "cpu":
        return "cpu", ""
    if not gpus:
        if setup.device == "cuda":
            raise UserError(
                "there is no GPU",
                where="parallel.device",
                why=f"it is cuda, and {without}",
                fix="run it on a machine with GPUs, or set parallel.device=cpu",
            )
        return "cpu", ""
    if ranks <= gpus:
        return "cuda", ""
    here = f"{format_count(ranks, 'rank')} on this machine, which shows {format_count(gpus, 'GPU')}"
    if setup.device == "auto" and setup.small:
        return "cpu", f"{here}: the model is small, so all ranks run on the CPU (parallel.device)"
    cpu = ", or parallel.device=cpu" if setup.device == "auto" else ""
    if gpus < setup.group:
        # one rank of one sequence divides every recipe
        offer = "parallel.ranks=1 parallel.context_parallel=1 parallel.replicas=1 parallel.ulysses_degree=auto"
    else:
        offer = f"parallel.ranks={gpus // setup.group * setup.group}"
    raise UserError(
        f"{ranks} ranks cannot share {format_count(gpus, 'GPU')}",
        where="parallel.ranks",
        why=f"there are {here}; a rank needs a GPU of its own",
        fix=f"set {offer}{cpu}",
    )
