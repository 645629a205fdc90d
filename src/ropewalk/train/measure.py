"""Retrieval as a reason to end a stage: asked of the weights as they stand, at every panel.

Each rank puts the whole model together and reads its share of the prompts, which are not those that the model is
judged by in the end. That needs room for the weights once more on every rank: a gate for small models.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from ropewalk.checkpoint.state import TrainState, name_weights
from ropewalk.core.error import UserError
from ropewalk.corpus.tokenize import load_tokenizer
from ropewalk.evaluate.items import measure
from ropewalk.evaluate.retrieval import plan_retrieval
from ropewalk.model.adapter import attach_adapter
from ropewalk.model.learner import Learner
from ropewalk.model.load import load_model
from ropewalk.probe.key_value import KeyValue
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.spec import EvaluateSpec

RETRIEVAL = "retrieval"
Measure = Callable[[TrainState], float]


def plan_measure(spec: EvaluateSpec, extended: Path, *, context_tokens: int) -> Measure:
    """A function that gives the share of key-value answers that a state gets right at ``context_tokens``.

    Every rank calls it. Raises UserError where the length is too short to ask anything.
    """
    probe, tokenizer = KeyValue(pairs=spec.pairs), load_tokenizer(extended)
    planned = plan_retrieval(
        probe, tokenizer, lengths=[context_tokens], answers=spec.answers, depths=spec.depths, seed=spec.seed + 1
    )
    if planned is None:
        raise UserError(
            f"retrieval cannot be asked at {context_tokens} tokens",
            where="until.metric",
            why=f"a prompt of {spec.pairs[0]} to {spec.pairs[1]} pairs does not fit",
            fix="name another metric, fewer evaluate.pairs, or a longer context",
        )

    def share_right(state: TrainState) -> float:
        sums = measure(gather_learner(state, extended), planned.items, planned.groups, name=RETRIEVAL)
        return float((sums.correct == sums.count).mean())

    return share_right


def gather_learner(state: TrainState, extended: Path) -> Learner:
    """The state's weights in a model of its own, whole on every rank; every rank calls it."""
    learner = Learner(load_model(extended))
    if "lora" in state.inputs:
        attach_adapter(learner.causal, Lora.model_validate(state.inputs["lora"]), seed=0)
    whole = dict(name_weights(learner))
    with torch.no_grad():
        for name, parameter in name_weights(state.model):
            whole[name].copy_(parameter.full_tensor() if isinstance(parameter, DTensor) else parameter)
    return learner.requires_grad_(False).to(next(state.model.parameters()).device)
