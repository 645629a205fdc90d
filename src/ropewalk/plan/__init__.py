"""A forecast of a run's arithmetic, memory, time and traffic, before it starts.

``forecast_recipe`` gives a ``Plan`` for each stage on the machine that it finds. Needs no torch.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.plan.flops import token_flops as token_flops
    from ropewalk.plan.flops import utilisation as utilisation
    from ropewalk.plan.forecast import forecast_recipe as forecast_recipe
    from ropewalk.plan.forecast import forecast_stage as forecast_stage
    from ropewalk.plan.hardware import Machine as Machine
    from ropewalk.plan.hardware import find_machine as find_machine
    from ropewalk.plan.memory import Memory as Memory
    from ropewalk.plan.memory import estimate_memory as estimate_memory
    from ropewalk.plan.savings import Savings as Savings
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "forecast": ("forecast_recipe", "forecast_stage"),
            "flops": ("token_flops", "utilisation"),
            "hardware": ("Machine", "find_machine"),
            "memory": ("Memory", "estimate_memory"),
            "savings": ("Savings",),
        },
    )
