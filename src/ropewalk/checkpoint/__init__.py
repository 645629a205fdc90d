"""Saves and loads the state of a training run. A checkpoint folder appears complete or not at all.

A checkpoint loads on any number of ranks.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.checkpoint.load import list_checkpoints as list_checkpoints
    from ropewalk.checkpoint.load import load_checkpoint as load_checkpoint
    from ropewalk.checkpoint.load import load_weights as load_weights
    from ropewalk.checkpoint.load import newest as newest
    from ropewalk.checkpoint.save import save_checkpoint as save_checkpoint
    from ropewalk.checkpoint.saver import Saver as Saver
    from ropewalk.checkpoint.state import TrainState as TrainState
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "load": ("list_checkpoints", "load_checkpoint", "load_weights", "newest"),
            "save": ("save_checkpoint",),
            "saver": ("Saver",),
            "state": ("TrainState",),
        },
    )
