"""``ropewalk extend``: a model with new positions, for a stage of a recipe or for a model folder."""

from pathlib import Path
from typing import Any

from ropewalk.commands.longrope_search import extend_with_search, needs_search
from ropewalk.commands.on_ranks import alone, on_ranks
from ropewalk.commands.run_inputs import rank_setup, require, require_new, stage_input
from ropewalk.core.artifact import is_finished, read_manifest
from ropewalk.core.progress import say
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.load import parse_stage
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stretch import model_tokens
from ropewalk.shape.find import find_model
from ropewalk.shape.read import read_shape


def extend_first_stage(recipe: Recipe, folder: RunFolder) -> None:
    """Make the first stage's model with its new positions; the models of later stages are made during training."""
    extend_stage(recipe, folder, 0)


def extend_stage(recipe: Recipe, folder: RunFolder, stage: int) -> None:
    """Make a stage's model with its new positions, unless it is done; open factors of LongRoPE are searched first."""
    # The rank that does the work checks if it is done already: torchrun's ranks may arrive here at different times.
    spec, base = recipe.stages[stage], stage_input(folder, recipe, stage)
    if needs_search(spec):
        require(folder.corpus, verb="prepare")
    setup = rank_setup(recipe, base)
    if needs_search(spec):
        on_ranks(extend_with_search, recipe.parallel.ranks, recipe, folder, stage, setup=setup)
    else:
        on_ranks(extend_on_rank, 1, base, folder.extended(stage), spec, setup=setup)
    facts = read_manifest(folder.extended(stage))["facts"]
    told = [f"stage {stage}: {facts[name]}" for name in ("carried", "dropout") if name in facts]
    if told:
        alone(lambda: say("\n".join(told)))


def extend_model(model: str, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Extend a model folder without a recipe; ``overrides`` are keys of one stage. Returns the proven facts."""
    stage = parse_stage(overrides)
    require_new(out)
    on_ranks(extend_on_rank, 1, find_model(model), out, stage)
    facts = read_manifest(out)["facts"]
    told = (_tell_fact(name, value) for name, value in facts.items() if name != "positions")
    return {"model": str(out), **facts, "text": "\n".join([str(out), *told])}


def _tell_fact(name: str, value: Any) -> str:
    """A fact as a line for people: layers one after another, numbers in readable form."""
    if isinstance(value, float):
        value = f"{value:.3g}" if value < 1 else f"{value:,.0f}"
    return f"{name}: {'; '.join(value) if isinstance(value, list) else value}"


def extend_on_rank(base: Path, out: Path, stage: Stage) -> None:
    """Write a copy of the base with the stage's positions into ``out``, unless that is done."""
    if is_finished(out):
        return
    from ropewalk.model.extend import extend

    context_tokens = model_tokens(stage, read_shape(base))
    extend(base, out, rope=stage.rope, layers=stage.layers, context_tokens=context_tokens)
