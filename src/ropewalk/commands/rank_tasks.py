"""The tasks of a run on ranks. They are called in forked processes, so torch is imported inside each.

Each task writes its files complete or not at all. Only small facts are sent back to the parent.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ropewalk.commands.run_inputs import base_model, stage_input
from ropewalk.core.artifact import is_finished, write_whole
from ropewalk.core.progress import say
from ropewalk.core.record import write_scores
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.prompt_rules import PROBES
from ropewalk.parallel.torchrun import is_started
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.spec import Init, ModelSource, Recipe
from ropewalk.recipe.stage import Stage

if TYPE_CHECKING:
    from ropewalk.model.lazy_weights import LazyWeights
    from ropewalk.train.parity import Parity

Dtype = Literal["base", "float32", "bfloat16"]


def on_ranks(function: Callable[..., Any], ranks: int, *args: Any) -> Any:
    """Call ``function(*args)`` on ``ranks`` forked ranks, or in place under torchrun; return the result of rank 0."""
    from ropewalk.parallel.launch import run_ranks

    return run_ranks(function, ranks, *args)[0]


def alone(work: Callable[[], None]) -> None:
    """Call ``work()``. Under torchrun only the first rank calls it, and the others wait without a time limit."""
    if not is_started():
        work()
        return
    from ropewalk.parallel.rank_zero import first_alone

    first_alone(work)


def ask_probes(recipe: Recipe, base: Path) -> dict[str, list[str]]:
    """The prompts of the recipe's own probes, by task, if its corpus must not contain them; else empty."""
    if PROBES not in recipe.corpus.decontaminate.files:
        return {}
    prompts: dict[str, list[str]] = on_ranks(write_prompts, 1, recipe, base)
    return prompts


def init(spec: Init, tokenizer: Path, out: Path, seed: int) -> None:
    """Write the first weights of a model that starts from nothing into ``out``."""
    from ropewalk.model.init import init_model

    init_model(spec, out, tokenizer=tokenizer, seed=seed)


def extend(base: Path, out: Path, stage: Stage) -> None:
    """Write a copy of the base with the stage's positions into ``out``, unless that is done."""
    if is_finished(out):
        return
    from ropewalk.model.extend import extend as extend_folder

    extend_folder(base, out, rope=stage.rope, layers=stage.layers, context_tokens=stage.reach_tokens)


def write_prompts(recipe: Recipe, base: Path) -> dict[str, list[str]]:
    """The texts of every retrieval prompt of the recipe, by task."""
    from ropewalk.corpus.tokens.tokenizer import load_tokenizer
    from ropewalk.evaluate.evaluate import plan_measurements
    from ropewalk.evaluate.retrieval import Retrieval
    from ropewalk.shape.read import read_shape

    tokenizer, base_tokens = load_tokenizer(base), read_shape(base).context_tokens
    planned = plan_measurements(recipe.evaluate, tokenizer, corpus=None, base_tokens=base_tokens)
    asked = [each for each in planned if isinstance(each, Retrieval)]
    return {each.task: [tokenizer.decode(item.tokens) for item in each.items] for each in asked}


def score_lengths(
    recipe: Recipe, model: Path, corpus: Path, truncated_tokens: int, context_tokens: int, out: Path
) -> dict[str, Any]:
    """Write the gain from far context for each long document into a column file."""
    from ropewalk.corpus.tokens.corpus_folder import open_corpus
    from ropewalk.evaluate.length_gain import score_lengths as score

    lengths = {"truncated_tokens": truncated_tokens, "context_tokens": context_tokens}
    return score(model, open_corpus(corpus), precision=recipe.evaluate.precision, out=out, **lengths)


def train(recipe: Recipe, stage: int, folder: RunFolder) -> str:
    """Train one stage; return how it ended."""
    from ropewalk.train.stage import train_stage

    base = None if isinstance(recipe.model, ModelSource) else base_model(folder, recipe)
    return train_stage(recipe, stage=stage, run=folder.root, corpus=folder.corpus, base=base)


def compare(recipe: Recipe, stage: int, folder: RunFolder) -> "dict[str, Parity]":
    """A stage's losses and gradients at degree 1 and at the recipe's degree, by precision."""
    from ropewalk.train.parity import compare_degrees

    return compare_degrees(recipe, stage=stage, model=folder.extended(stage), corpus=folder.corpus)


def replay(record: dict[str, Any], recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """Repeat a skipped step."""
    from ropewalk.train.replay import replay as replay_step

    return replay_step(record, recipe, folder.root, folder.corpus)


def write_trained(recipe: Recipe, folder: RunFolder, stage: int) -> None:
    """Write the stage's last checkpoint as a model folder in float32 for evaluation and for the next stage.

    If the stage has ``merge_with_base`` below 1, the weights are merged with the run's base first. Every rank calls
    this, because the ranks agree on the checkpoint; the first one writes.
    """
    from ropewalk.checkpoint.load import newest
    from ropewalk.model.export import export as export_folder
    from ropewalk.model.lazy_weights import merge_weights, read_weights
    from ropewalk.parallel.rank_zero import first_does
    from ropewalk.parallel.verify_folder import require_intact

    require_intact(folder.extended(stage), together=True)
    checkpoint = newest(folder.checkpoints(stage))
    assert checkpoint is not None

    def write() -> None:
        weights, share = _read_trained(checkpoint, folder.extended(stage)), recipe.stages[stage].merge_with_base
        if share < 1:
            weights = merge_weights(weights, read_weights(base_model(folder, recipe)), share=share)
        export_folder(weights, folder.extended(stage), folder.trained(stage), dtype="float32")

    first_does(write)


def export_checkpoint(checkpoint: Path, like: Path, out: Path, dtype: Dtype) -> None:
    """Write a checkpoint's weights as a model folder ``out``.

    Config and tokenizer are those of ``like``, the model that the checkpoint was trained from.
    """
    from ropewalk.model.export import export as export_folder
    from ropewalk.model.weights import stored_dtype

    export_folder(_read_trained(checkpoint, like), like, out, dtype=stored_dtype(like) if dtype == "base" else dtype)


def _read_trained(checkpoint: Path, extended: Path) -> "LazyWeights":
    """All weights of a checkpoint; adapters are merged into the weights of the stage's extended model."""
    from ropewalk.checkpoint.load import load_weights, read_facts
    from ropewalk.model.adapter import merge_adapter

    weights, lora = load_weights(checkpoint), read_facts(checkpoint)["inputs"].get("lora")
    return weights if lora is None else merge_adapter(weights, extended, Lora.model_validate(lora))


def check_gate(recipe: Recipe, folder: RunFolder, stage: int) -> None:
    """Measure the stage's model against its gates, once.

    Raises UserError on every rank where a gate is missed and the recipe stops then.
    """
    from ropewalk.evaluate.stage_gate import measure_promotion, read_verdicts, refuse_missed_gate, spell_verdicts
    from ropewalk.parallel.collective import rank_and_ranks, share_from_first

    spec, path, base = recipe.stages[stage], folder.gate(stage), base_model(folder, recipe)
    assert spec.gate is not None
    if not share_from_first(path.exists()):
        models = {"base": base, "before": stage_input(folder, recipe, stage), "trained": folder.trained(stage)}
        if stage == 0:
            del models["before"]
        verdicts = measure_promotion(
            spec.gate, recipe.evaluate, models=models, reach_tokens=spec.reach_tokens, corpus=folder.corpus
        )
        if verdicts is not None:
            write_whole(path, spell_verdicts(verdicts))
    verdicts = share_from_first(read_verdicts(path) if rank_and_ranks()[0] == 0 else [])
    if rank_and_ranks()[0] == 0:
        for verdict in verdicts:
            say(f"stage {stage}, {verdict.outcome}: {verdict.text}")
    if spec.gate.otherwise == "stop":
        refuse_missed_gate(verdicts, stage=stage, path=path, strict=recipe.strict)


def evaluate(recipe: Recipe, folder: RunFolder, models: dict[str, Path], base_tokens: int) -> None:
    """Measure the models, by name, and write scores.json, unless it exists."""
    from ropewalk.evaluate.evaluate import evaluate_models
    from ropewalk.parallel.collective import share_from_first

    if share_from_first(folder.scores.exists()):
        return
    scores = evaluate_models(models, recipe.evaluate, corpus=folder.corpus, base_context_tokens=base_tokens)
    if scores is not None:
        write_scores(folder.scores, scores)


def export(trained: Path, base: Path, out: Path, dtype: Dtype) -> None:
    """Write the trained model in another dtype, unless that is done."""
    if is_finished(out):
        return
    from ropewalk.model.export import export as export_folder
    from ropewalk.model.weights import stored_dtype

    export_folder(trained, trained, out, dtype=stored_dtype(base) if dtype == "base" else dtype)
