"""Repeat a skipped step from the checkpoint before it, to find out whether the data or the machine was the cause.

All steps up to the skipped one are a function of checkpoint and cursor, so the loss must be the same, bit for bit. If
the loss differs, the text was not the cause. Then each sequence of the step is run alone, which shows the faulty
sequence. Nothing is written, and the step itself changes no weight.
"""

from pathlib import Path
from typing import Any

from ropewalk.checkpoint.load import find_fault_together, list_checkpoints, read_facts, step_of
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.parallel.collective import share_from_first
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.train.batches import StepBatches, make_batches
from ropewalk.train.learning_rate import RATES, Rates
from ropewalk.train.loop import place_positions, take_step, trains_new_only
from ropewalk.train.loss_metrics import LossMetrics
from ropewalk.train.optimizer import list_frozen
from ropewalk.train.resume import go_on
from ropewalk.train.spike_guard import see
from ropewalk.train.stage import begin_stage, carry_moments
from ropewalk.train.stage_context import make_context
from ropewalk.train.step import compute_gradients


def replay(record: dict[str, Any], recipe: Recipe, run: Path, corpus: Path) -> dict[str, Any]:
    """Repeat the step of ``record`` (a file in ``stages/N/skipped/``), as a whole and sequence by sequence.

    Returns loss and gradient norm of the step and of each sequence, the step of the checkpoint, and whether the values
    are the same as in ``record``. Every rank must call it. Raises UserError where no checkpoint before the step is left
    from which it can be reached.
    """
    first, sequences = record["first_sequence"], len(record["sequences"])
    context = make_context(recipe, int(record["stage"]), run=run)
    mesh, spec = context.mesh, context.spec
    built = open_corpus(corpus)
    reached = first + sequences  # after a rollback these may be beyond those that were planned
    dataset = open_stage(recipe, context.number, built, sequences=max(spec.sequences, reached))
    fresh = begin_stage(context, dataset)
    start = _find_start(record, context.folder.checkpoints)
    state = carry_moments(fresh, context.moments) if start is None else go_on(fresh, start)
    begun, rates = state.step, Rates.from_json(state.plan[RATES])
    loss_metrics = LossMetrics(dataset.sources, spec.reach_tokens)

    def take(cursor: int, sequences: int) -> StepBatches:
        return make_batches(dataset, cursor, sequences=sequences, spec=spec, mesh=mesh, sharing=context.sharing)

    def look(batches: StepBatches) -> dict[str, float | None]:
        still = list_frozen(state.optimizer) if trains_new_only(spec, state.step) else []
        found = compute_gradients(state.model, batches, mesh=mesh, loss_metrics=loss_metrics, frozen=still)
        state.optimizer.zero_grad()
        if not found.weight:  # a sequence without a label has neither loss nor gradient
            return {"loss": 0.0, "grad_norm": 0.0}
        loss, norm, _ = see(found.loss, found.norm, taken=False)
        return {"loss": loss, "grad_norm": norm}

    while state.step < record["step"] - 1:
        state = take_step(state, take(state.cursor, spec.step_sequences), context, rates, loss_metrics).state
    if context.is_first_rank:
        say(f"trained from step {begun} to {state.step}; now step {record['step']}")
    place_positions(state, spec)
    whole = look(take(first, sequences))
    same = whole == {name: record[name] for name in whole}
    return {
        **whole,
        "from_step": begun,
        "same": same,
        "sequences": [look(take(first + sequence, 1)) for sequence in range(sequences)],
    }


def _find_start(record: dict[str, Any], checkpoints: Path) -> Path | None:
    """Return the newest intact checkpoint from which the step can be reached; None for the beginning of the stage."""
    for path in share_from_first(list_checkpoints(checkpoints)):
        if step_of(path) < record["step"] and find_fault_together(path) is None:
            if read_facts(path)["rollbacks"] == record["rollbacks"]:
                return path
            break  # older checkpoints are from before the rollback too
    if not record["rollbacks"]:
        return None
    raise UserError(
        "this step cannot be reached again",
        where=str(checkpoints),
        why=f"there is no checkpoint after rollback {record['rollbacks']} and before step {record['step']}",
        fix="keep more checkpoints (stages.N.save_total_limit), or read the text in the file",
    )
