"""``ropewalk evaluate``: measures models on the same inputs and writes scores.json."""

from pathlib import Path

from ropewalk.commands.on_ranks import on_ranks
from ropewalk.commands.run_inputs import base_model, rank_setup, require
from ropewalk.core.record import write_scores
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.torchrun import is_started
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.shape.read import read_shape


def evaluate_run(recipe: Recipe, folder: RunFolder) -> None:
    """Measure base, base with the new positions, and trained model on the same inputs, and write scores.json."""
    trained = require(folder.trained(len(recipe.stages) - 1), verb="train")
    models = {} if isinstance(recipe.model, ModelSource) else {"base": base_model(folder, recipe)}
    # Of several stages, the last one's positions exist on trained weights only.
    if models and len(recipe.stages) == 1:
        models["zero-shot"] = folder.extended(0)
    measure_models(recipe, folder, models | {"extended": trained})


def measure_models(recipe: Recipe, folder: RunFolder, models: dict[str, Path], *, store: Path | None = None) -> None:
    """Measure models on the same inputs and write scores.json, unless it exists.

    Lengths are multiples of the base's. With a ``store`` the sums of every answer are kept there (stored_sums.py).
    """
    if is_started() or not folder.scores.exists():  # under torchrun the ranks must decide this together, not one by one
        base = base_model(folder, recipe)
        asked, setup = (recipe, folder, models, read_shape(base).context_tokens, store), rank_setup(recipe, base)
        on_ranks(evaluate_on_ranks, recipe.parallel.ranks, *asked, setup=setup)


def evaluate_on_ranks(
    recipe: Recipe, folder: RunFolder, models: dict[str, Path], base_tokens: int, store: Path | None = None
) -> None:
    """Measure the models, by name, and write scores.json, unless it exists."""
    from ropewalk.evaluate.evaluate import evaluate_models
    from ropewalk.parallel.collective import share_from_first

    if share_from_first(folder.scores.exists()):
        return
    scores = evaluate_models(
        models, recipe.evaluate, corpus=folder.corpus, base_context_tokens=base_tokens, store=store
    )
    if scores is not None:
        write_scores(folder.scores, scores)
