"""What ranks tell one another after each step, in one message: each hears of signals and failures at other moments."""

from dataclasses import dataclass

import torch

from ropewalk.parallel.collective import max_over_ranks
from ropewalk.parallel.mesh import Mesh
from ropewalk.parallel.peak import held_peak_bytes


@dataclass(frozen=True, slots=True)
class Heard:
    """Of all ranks: whether any was asked to stop, or failed to save; the most that any has held so far.

    ``own_seconds`` are those of the step in which a rank did not wait for others, by rank.
    """

    asked: bool
    save_failed: bool
    peak_bytes: float
    own_seconds: tuple[float, ...]


def hear(mesh: Mesh, *, asked: bool, save_failed: bool, own_seconds: float) -> Heard:
    """Say what this rank has to say and hear the others; every rank calls it."""
    mine = torch.zeros(3 + mesh.ranks, dtype=torch.float64)
    mine[:3] = torch.tensor([asked, save_failed, held_peak_bytes(mesh.device)])
    mine[3 + mesh.rank] = own_seconds
    stop, failed, peak_bytes, *seconds = max_over_ranks(mine).tolist()
    return Heard(bool(stop), bool(failed), peak_bytes, tuple(seconds))
