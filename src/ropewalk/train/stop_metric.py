"""Retrieval as a condition that ends a stage. It is measured with the sharded weights whenever metrics are averaged.

The prompts are not those of the final evaluation.
"""

from collections.abc import Callable
from pathlib import Path

from ropewalk.checkpoint.state import TrainState
from ropewalk.core.error import UserError
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.evaluate.retrieval import plan_retrieval
from ropewalk.model.rope_hooks import interpolate_positions
from ropewalk.probe.key_value import KeyValue
from ropewalk.recipe.spec import EvaluateSpec
from ropewalk.train.validation import Reader

RETRIEVAL = "retrieval"
Measure = Callable[[TrainState], float]


def plan_measure(spec: EvaluateSpec, extended: Path, *, reader: Reader) -> Measure:
    """Return a function that measures the share of correct key-value answers of a state at the stage's length.

    Every rank must call it. Raises UserError where the length is too short for a prompt.
    """
    probe, tokenizer = KeyValue(pairs=spec.pairs), load_tokenizer(extended)
    planned = plan_retrieval(
        probe, tokenizer, lengths=[reader.sequence_tokens], answers=spec.answers, depths=spec.depths, seed=spec.seed + 1
    )
    if planned is None:
        raise UserError(
            f"retrieval cannot be measured at {reader.sequence_tokens} tokens",
            where="stop.metric",
            why=f"a prompt of {spec.pairs[0]} to {spec.pairs[1]} pairs does not fit",
            fix="choose another metric, fewer evaluate.pairs, or a longer context",
        )

    def share_right(state: TrainState) -> float:
        interpolate_positions(state.model, 1.0)  # measure with the positions of the final model
        sums = reader.read(state.model, planned)
        return float((sums.correct == sums.count).mean())

    return share_right
