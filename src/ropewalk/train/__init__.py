"""Continued pretraining: a step is a function, and the loop calls it for each step.

``train_stage`` trains one stage of a recipe on all ranks, from its newest checkpoint if there is one.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.train.learning_rate import Rates as Rates
    from ropewalk.train.learning_rate import rates_of as rates_of
    from ropewalk.train.loop import run_loop as run_loop
    from ropewalk.train.optimizer import make_optimizer as make_optimizer
    from ropewalk.train.parity import Parity as Parity
    from ropewalk.train.parity import compare_degrees as compare_degrees
    from ropewalk.train.stage import train_stage as train_stage
    from ropewalk.train.step import train_step as train_step
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "loop": ("run_loop",),
            "optimizer": ("make_optimizer",),
            "parity": ("Parity", "compare_degrees"),
            "learning_rate": ("Rates", "rates_of"),
            "stage": ("train_stage",),
            "step": ("train_step",),
        },
    )
