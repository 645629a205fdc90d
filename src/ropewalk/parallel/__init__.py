"""Ranks: starts them, lays them out as a mesh, shards models over them, and stops them together."""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.parallel.fsdp import shard_model as shard_model
    from ropewalk.parallel.launch import leave_ranks as leave_ranks
    from ropewalk.parallel.launch import run_ranks as run_ranks
    from ropewalk.parallel.mesh import Mesh as Mesh
    from ropewalk.parallel.mesh import make_mesh as make_mesh
    from ropewalk.parallel.verify_folder import require_intact as require_intact
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "fsdp": ("shard_model",),
            "launch": ("leave_ranks", "run_ranks"),
            "mesh": ("Mesh", "make_mesh"),
            "verify_folder": ("require_intact",),
        },
    )
