"""``ropewalk train``: all stages in turn. Lost ranks are started again; a stage ends in a model folder and a gate."""

from pathlib import Path
from typing import TYPE_CHECKING

from ropewalk.commands.extend import extend_stage
from ropewalk.commands.on_ranks import on_ranks
from ropewalk.commands.run_inputs import base_model, rank_setup, require, stage_input
from ropewalk.core.artifact import is_finished, write_whole
from ropewalk.core.error import RankError, UserError
from ropewalk.core.progress import say, warn
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.stop import Stopped
from ropewalk.parallel.torchrun import is_first
from ropewalk.plan.named_hardware import require_hardware
from ropewalk.recipe.lora import Lora, require_peft
from ropewalk.recipe.parallel import require_moments_kernel
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.recipe.trackers import require_trackers

if TYPE_CHECKING:
    from ropewalk.model.lazy_weights import LazyWeights


def train_stages(recipe: Recipe, folder: RunFolder) -> None:
    """Train all stages in turn, each from the weights of the stage before."""
    if is_first():
        require_packages(recipe)
        require_hardware(recipe)
    require(folder.corpus, verb="prepare")
    for stage in range(len(recipe.stages)):
        if not is_finished(folder.trained(stage)):
            extend_stage(recipe, folder, stage)
            if _train_stage(recipe, folder, stage) == "stopped":
                raise Stopped
            setup = rank_setup(recipe, folder.extended(stage))
            on_ranks(write_trained, recipe.parallel.ranks, recipe, folder, stage, setup=setup)
        if recipe.stages[stage].gate is not None:
            setup = rank_setup(recipe, folder.extended(stage))
            on_ranks(check_gate, recipe.parallel.ranks, recipe, folder, stage, setup=setup)


def _train_stage(recipe: Recipe, folder: RunFolder, stage: int) -> str:
    """Train a stage to its end. Lost ranks are started again while new checkpoints show progress.

    Without progress, they are started at most ``parallel.restarts`` times from the same step; then the RankError is
    raised.
    """
    reached, tries = folder.newest_step(stage), 0
    while True:
        try:
            setup = rank_setup(recipe, folder.extended(stage))
            return str(on_ranks(train_on_ranks, recipe.parallel.ranks, recipe, stage, folder, setup=setup))
        except RankError as error:
            before, reached = reached, folder.newest_step(stage)
            tries = tries + 1 if reached <= before else 1
            if tries > recipe.parallel.restarts:
                raise
            say(
                f"{error}\nstarting the ranks again from step {reached}: attempt {tries} of {recipe.parallel.restarts} "
                "from this step"
            )


def require_packages(recipe: Recipe) -> None:
    """Raise UserError where a package that the recipe's trackers, adapters or moments need is missing."""
    require_trackers(recipe.trackers)
    require_moments_kernel(recipe.parallel.moments_kernel)
    if any(stage.lora is not None for stage in recipe.stages):
        require_peft()


def train_on_ranks(recipe: Recipe, stage: int, folder: RunFolder) -> str:
    """Train one stage; return how it ended."""
    from ropewalk.train.stage import train_stage

    base = None if isinstance(recipe.model, ModelSource) else base_model(folder, recipe)
    return train_stage(recipe, stage=stage, run=folder.root, corpus=folder.corpus, base=base)


def write_trained(recipe: Recipe, folder: RunFolder, stage: int) -> None:
    """Write the stage's last checkpoint as a model folder in float32 for evaluation and for the next stage.

    If the stage has ``merge_with_base`` below 1, the weights are merged with the run's base first. Every rank calls
    this, because the ranks agree on the checkpoint; the first one writes. Raises UserError, on every rank, where the
    last checkpoint has been lost since the stage ended.
    """
    from ropewalk.checkpoint.load import newest, read_facts
    from ropewalk.model.export import export as export_folder
    from ropewalk.model.lazy_weights import merge_weights, read_weights
    from ropewalk.parallel.rank_zero import first_does
    from ropewalk.parallel.verify_folder import require_intact

    require_intact(folder.extended(stage), together=True)
    checkpoint = newest(folder.checkpoints(stage))
    if checkpoint is None or not read_facts(checkpoint)["ended"]:
        raise UserError(
            "the last checkpoint of the stage cannot be used",
            where=str(folder.checkpoints(stage)),
            why="no checkpoint there can be verified"
            if checkpoint is None
            else f"{checkpoint.name}, the newest that can be verified, is not the last checkpoint of the stage",
            fix="run the same command: it takes the steps since then again, or says what is missing",
        )

    def write() -> None:
        weights, share = read_trained(checkpoint, folder.extended(stage)), recipe.stages[stage].merge_with_base
        if share < 1:
            weights = merge_weights(weights, read_weights(base_model(folder, recipe)), share=share)
        export_folder(weights, folder.extended(stage), folder.trained(stage), dtype="float32")

    first_does(write)


def read_trained(checkpoint: Path, extended: Path) -> "LazyWeights":
    """All weights of a checkpoint; adapters are merged into the weights of the stage's extended model.

    Weights that training did not change are those of that model.
    """
    from ropewalk.checkpoint.load import load_weights, read_facts
    from ropewalk.model.adapter import merge_adapter
    from ropewalk.model.lazy_weights import complete_weights, read_weights

    weights, inputs = load_weights(checkpoint), read_facts(checkpoint)["inputs"]
    if "lora" in inputs:
        return merge_adapter(weights, extended, Lora.model_validate(inputs["lora"]))
    frozen = inputs.get("frozen")
    return weights if not frozen else complete_weights(weights, read_weights(extended), frozen=frozen)


def check_gate(recipe: Recipe, folder: RunFolder, stage: int) -> None:
    """Measure the stage's model against its gates, once.

    Raises UserError on every rank where a gate is missed and the recipe stops then.
    """
    from ropewalk.evaluate.stage_gate import measure_gate, read_verdicts, refuse_missed_gate, spell_verdicts
    from ropewalk.parallel.collective import rank_and_ranks, share_from_first

    spec, path, base = recipe.stages[stage], folder.gate(stage), base_model(folder, recipe)
    assert spec.gate is not None
    if not share_from_first(path.exists()):
        models = {"base": base, "before": stage_input(folder, recipe, stage), "trained": folder.trained(stage)}
        if stage == 0:
            del models["before"]
        verdicts = measure_gate(
            spec.gate, recipe.evaluate, models=models, reach_tokens=spec.reach_tokens, corpus=folder.corpus
        )
        if verdicts is not None:
            write_whole(path, spell_verdicts(verdicts))
    verdicts = share_from_first(read_verdicts(path) if rank_and_ranks()[0] == 0 else [])
    if rank_and_ranks()[0] == 0:
        for verdict in verdicts:
            (say if verdict.met else warn)(f"stage {stage}, {verdict.outcome}: {verdict.text}")
    if spec.gate.otherwise == "stop":
        refuse_missed_gate(verdicts, stage=stage, path=path, strict=recipe.strict)
