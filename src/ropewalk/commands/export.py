"""``ropewalk export``: the model folder that engines load, of a finished run or of any checkpoint.

The run need not be finished or stopped for a checkpoint's export, because a finished checkpoint is never written again.
"""

from pathlib import Path
from typing import Any, Literal

from ropewalk.commands.model_card import make_card
from ropewalk.commands.on_ranks import alone, on_ranks
from ropewalk.commands.run_inputs import base_model, rank_setup, require, require_new
from ropewalk.commands.train import read_trained
from ropewalk.core.artifact import is_finished, write_whole
from ropewalk.core.progress import warn
from ropewalk.core.run_folder import RunFolder, StageFolder
from ropewalk.core.strict_json import spell_json
from ropewalk.model.engines import is_native
from ropewalk.parallel.torchrun import is_started
from ropewalk.recipe.load import parse_export
from ropewalk.recipe.spec import Recipe

Dtype = Literal["base", "float32", "bfloat16"]


def export_run(recipe: Recipe, folder: RunFolder) -> None:
    """Export the last weights in the export's dtype, and compare them with plain transformers in a fresh process."""
    trained = require(folder.trained(len(recipe.stages) - 1), verb="train")
    if is_started() or not is_finished(folder.export):
        base = base_model(folder, recipe)
        card = make_card(folder.root, trained)
        asked, setup = (trained, base, folder.export, recipe.export.dtype, card), rank_setup(recipe, base)
        on_ranks(export_on_rank, 1, *asked, setup=setup)
    ranks = 1 if is_started() else recipe.parallel.ranks  # torchrun's first rank cannot start others
    alone(lambda: _verify(folder, recipe.parallel.device, ranks))


def _verify(folder: RunFolder, device: str, ranks: int) -> None:
    if folder.parity.exists():
        return
    from ropewalk.model.export_parity import verify_both
    from ropewalk.parallel.device import name_device

    if not is_native(folder.export):
        warn("no class of transformers has these positions: other programs refuse this folder, see its LOADING.md")
    differences, _ = verify_both(folder.export, device=name_device(device), ranks=ranks)
    write_whole(folder.parity, spell_json(differences))


def export_on_rank(trained: Path, base: Path, out: Path, dtype: Dtype, card: str = "") -> None:
    """Write the trained model in another dtype with its model card, unless that is done."""
    if is_finished(out):
        return
    from ropewalk.model.export import export
    from ropewalk.model.weights import stored_dtype

    export(trained, trained, out, dtype=stored_dtype(base) if dtype == "base" else dtype, card=card)


def is_checkpoint(folder: Path) -> bool:
    """True if the folder's path is that of a checkpoint of a run."""
    at = folder.resolve()
    return at.parent == StageFolder(at.parents[1]).checkpoints


def export_checkpoint(checkpoint: Path, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Write the weights of ``checkpoint`` as the model folder ``out``.

    The dtype is that of the model that was trained, unless ``overrides`` set another one.
    """
    asked = parse_export(overrides)
    require_new(out)
    stage = checkpoint.resolve().parents[1]
    like, run = StageFolder(stage).extended, stage.parents[1]
    card = ""
    if RunFolder(run).recipe.exists():
        card = make_card(run, like, checkpoint=f"stage {stage.name}, {checkpoint.resolve().name}")
    else:
        warn(f"no model card: {run} has no recipe.yaml that tells what was done")
    on_ranks(export_checkpoint_on_rank, 1, checkpoint, like, out, asked.dtype, card)
    return {"model": str(out), "checkpoint": str(checkpoint), "text": str(out)}


def export_checkpoint_on_rank(checkpoint: Path, like: Path, out: Path, dtype: Dtype, card: str = "") -> None:
    """Write a checkpoint's weights as a model folder ``out``, with its model card.

    Config and tokenizer are those of ``like``, the model that the checkpoint was trained from.
    """
    from ropewalk.model.export import export
    from ropewalk.model.weights import stored_dtype

    export(read_trained(checkpoint, like), like, out, dtype=stored_dtype(like) if dtype == "base" else dtype, card=card)
