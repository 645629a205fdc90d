"""Exchange the status of all ranks after each step, in one message.

The exchange is needed because signals and failures reach the ranks at different moments.
"""

import math
from dataclasses import dataclass

import torch

from ropewalk.parallel.collective import max_over_ranks
from ropewalk.parallel.measure_rates import EnergyMeter
from ropewalk.parallel.mesh import Mesh
from ropewalk.parallel.peak import held_peak_bytes
from ropewalk.parallel.slow import OwnTime


@dataclass(frozen=True, slots=True)
class RankStatus:
    """The status of all ranks together.

    ``asked`` is true if any rank was asked to stop, ``save_failed`` if any rank failed to save. ``peak_bytes`` is the
    largest peak memory of any rank so far. ``own_seconds`` holds, for each rank, the seconds of the step in which it
    did not wait for other ranks.
    """

    asked: bool
    save_failed: bool
    peak_bytes: float
    own_seconds: tuple[float, ...]
    joules: float = 0.0
    """The energy of the step, of all devices that count it; 0 where none does."""


def gather_rank_status(mesh: Mesh, own: OwnTime, energy: EnergyMeter, *, asked: bool, save_failed: bool) -> RankStatus:
    """Exchange this rank's status with the other ranks, and return the status of all. Every rank must call it.

    ``own`` and ``energy`` count what this rank used since they were read before.
    """
    mine = torch.zeros(3 + 2 * mesh.ranks, dtype=torch.float64)
    mine[:3] = torch.tensor([asked, save_failed, held_peak_bytes(mesh.device)])
    mine[3 + mesh.rank] = own.take()
    joules = energy.take()
    mine[3 + mesh.ranks + mesh.rank] = 0.0 if math.isnan(joules) else joules
    stop, failed, peak_bytes, *others = max_over_ranks(mine).tolist()
    seconds, joules_of = others[: mesh.ranks], others[mesh.ranks :]
    return RankStatus(bool(stop), bool(failed), peak_bytes, tuple(seconds), sum(joules_of))
