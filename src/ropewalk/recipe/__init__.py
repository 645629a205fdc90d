"""The recipe of a whole run as one frozen value: its keys, reading, overrides and checks.

A recipe is a YAML file. ``load_recipe`` reads it with overrides, and names the key that is wrong. Its digest names the
results that are made from it. Needs no torch.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.recipe.advice import AdviceSpec as AdviceSpec
    from ropewalk.recipe.finding import Finding as Finding
    from ropewalk.recipe.load import load_recipe as load_recipe
    from ropewalk.recipe.load import parse_recipe as parse_recipe
    from ropewalk.recipe.load import parse_stage as parse_stage
    from ropewalk.recipe.lora import Lora as Lora
    from ropewalk.recipe.parallel import Parallel as Parallel
    from ropewalk.recipe.schema import make_schema as make_schema
    from ropewalk.recipe.spec import EvaluateSpec as EvaluateSpec
    from ropewalk.recipe.spec import ExportSpec as ExportSpec
    from ropewalk.recipe.spec import Init as Init
    from ropewalk.recipe.spec import ModelSource as ModelSource
    from ropewalk.recipe.spec import Recipe as Recipe
    from ropewalk.recipe.stage import Stage as Stage
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "advice": ("AdviceSpec",),
            "finding": ("Finding",),
            "load": ("load_recipe", "parse_recipe", "parse_stage"),
            "lora": ("Lora",),
            "parallel": ("Parallel",),
            "schema": ("make_schema",),
            "spec": ("EvaluateSpec", "ExportSpec", "Init", "ModelSource", "Recipe"),
            "stage": ("Stage",),
        },
    )
