"""The overrides of ``ropewalk run --fast``: the same run with few steps and few measurements, to see that it works.

Its figures say little about the model, so the report names it a trial. It has a run folder of its own, so that the full
run can follow.
"""

from ropewalk.recipe.spec import Recipe

_STEPS = 20
_EMBEDDED_SHARE = 4


def plan_trial(recipe: Recipe) -> list[str]:
    """Overrides that make a short trial of ``recipe``: at most 20 steps a stage, a quarter of the generated text."""
    trial = [
        f"run={recipe.run}-fast",
        "trial=true",
        f"evaluate.answers={min(recipe.evaluate.answers, 40)}",
        f"evaluate.documents={min(recipe.evaluate.documents, 4)}",
        f"evaluate.short_tokens={min(recipe.evaluate.short_tokens, 4096)}",
    ]
    if recipe.evaluate.grid is not None:
        trial.append(f"evaluate.grid.prompts={min(recipe.evaluate.grid.prompts, 2)}")
    if recipe.evaluate.ruler is not None:
        trial.append(f"evaluate.ruler.samples={min(recipe.evaluate.ruler.samples, 2)}")
    trial += [f"evaluate.benchmarks.{index}.samples=2" for index in range(len(recipe.evaluate.benchmarks))]
    for index, stage in enumerate(recipe.stages):
        trial.append(f"stages.{index}.tokens={min(stage.tokens, _STEPS * stage.step_tokens)}")
        if stage.gate is not None:  # few steps miss it, and the next stage is to be tried too
            trial.append(f"stages.{index}.gate.otherwise=warn")
    for index, source in enumerate(recipe.corpus.sources):
        if source.size_bytes is not None:
            trial.append(f"corpus.sources.{index}.size_bytes={source.size_bytes // _EMBEDDED_SHARE}")
    return trial
