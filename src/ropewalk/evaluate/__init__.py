"""Measures the length that a model reads and the abilities that it lost, for any model folder.

Losses by position, retrieval, short-context loss and the gain from long context; each score has an interval. The gates
between stages are judged here, too.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.evaluate.evaluate import evaluate_models as evaluate_models
    from ropewalk.evaluate.evaluate import measure_model as measure_model
    from ropewalk.evaluate.loss_by_position import PositionLoss as PositionLoss
    from ropewalk.evaluate.retrieval import Retrieval as Retrieval
    from ropewalk.evaluate.retrieval import plan_retrieval as plan_retrieval
    from ropewalk.evaluate.score import Estimate as Estimate
    from ropewalk.evaluate.stage_gate import GateVerdict as GateVerdict
    from ropewalk.evaluate.stage_gate import judge_gates as judge_gates
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "evaluate": ("evaluate_models", "measure_model"),
            "loss_by_position": ("PositionLoss",),
            "retrieval": ("Retrieval", "plan_retrieval"),
            "score": ("Estimate",),
            "stage_gate": ("GateVerdict", "judge_gates"),
        },
    )
