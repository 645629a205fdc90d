"""The overrides of ``ropewalk run --fast``: the same run with few steps and few measurements, to see that it works.

Its figures say little about the model, so the report names it a trial. It has a run folder of its own, so that the full
run can follow.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage

_STEPS = 20
_EMBEDDED_SHARE = 4


def plan_trial(recipe: Recipe) -> list[str]:
    """Overrides that make a short trial of ``recipe``: at most 20 steps a stage, a quarter of the generated text."""
    trial = [
        f"run={json.dumps(f'{Path(recipe.run)}-fast')}",  # of runs/own/ too: not a folder within that run's
        "trial=true",
        f"evaluate.answers={min(recipe.evaluate.answers, 40)}",
        f"evaluate.documents={min(recipe.evaluate.documents, 4)}",
        f"evaluate.short_tokens={min(recipe.evaluate.short_tokens, 4096)}",
    ]
    if recipe.evaluate.grid is not None:
        trial.append(f"evaluate.grid.prompts={min(recipe.evaluate.grid.prompts, 2)}")
    if recipe.evaluate.ruler is not None:
        trial.append(f"evaluate.ruler.samples={min(recipe.evaluate.ruler.samples, 2)}")
    for index, benchmark in enumerate(recipe.evaluate.benchmarks):
        trial.append(f"evaluate.benchmarks.{index}.samples={min(benchmark.samples or 2, 2)}")
    for index, stage in enumerate(recipe.stages):
        trial += _shorten(stage, f"stages.{index}")
    for index, source in enumerate(recipe.corpus.sources):
        if source.size_bytes is not None:
            trial.append(f"corpus.sources.{index}.size_bytes={source.size_bytes // _EMBEDDED_SHARE}")
    return trial


def _shorten(stage: Stage, key: str) -> Iterator[str]:
    """The stage with few steps, and all that must end or be judged within its steps."""
    tokens = min(stage.tokens, _STEPS * stage.step_tokens)
    steps = stage.model_copy(update={"tokens": tokens}).steps
    yield f"{key}.tokens={tokens}"
    if stage.gate is not None:  # few steps miss it, and the next stage is to be tried too
        yield f"{key}.gate.otherwise=warn"
    if stage.stop is not None and stage.stop.saturated is not None:  # few validations show no trend
        yield f"{key}.stop=null"
    if stage.rope_interpolation_steps > steps:
        yield f"{key}.rope_interpolation_steps={steps}"
    if stage.experimental is not None and stage.experimental.frozen_steps > steps:
        yield f"{key}.experimental.frozen_steps={steps}"
