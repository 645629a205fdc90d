"""Exchange the status of all ranks after each step, in one message.

The exchange is needed because signals and failures reach the ranks at different moments.
"""

from dataclasses import dataclass

import torch

from ropewalk.parallel.collective import max_over_ranks
from ropewalk.parallel.mesh import Mesh
from ropewalk.parallel.peak import held_peak_bytes


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


def gather_rank_status(mesh: Mesh, *, asked: bool, save_failed: bool, own_seconds: float) -> RankStatus:
    """Exchange this rank's status with the other ranks, and return the status of all. Every rank must call it."""
    mine = torch.zeros(3 + mesh.ranks, dtype=torch.float64)
    mine[:3] = torch.tensor([asked, save_failed, held_peak_bytes(mesh.device)])
    mine[3 + mesh.rank] = own_seconds
    stop, failed, peak_bytes, *seconds = max_over_ranks(mine).tolist()
    return RankStatus(bool(stop), bool(failed), peak_bytes, tuple(seconds))
