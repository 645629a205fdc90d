"""Selects and orders the tokens that a stage reads: mixture weights, strata, packing, the dataset.

``Dataset`` gives any sequence of a stage by its number, so a run can resume at any step.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus.mix.dataset import Dataset as Dataset
    from ropewalk.corpus.mix.dataset import open_dataset as open_dataset
    from ropewalk.corpus.mix.packing import Packing as Packing
    from ropewalk.corpus.mix.planned_strata import plan_strata as plan_strata
    from ropewalk.corpus.mix.strata import Stratum as Stratum
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "dataset": ("Dataset", "open_dataset"),
            "packing": ("Packing",),
            "planned_strata": ("plan_strata",),
            "strata": ("Stratum",),
        },
    )
