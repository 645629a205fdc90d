"""The inputs of each part of a run as one digest: the part's own keys of the recipe, and the parts before it.

Two recipes with the same digest of a part make the same part, so a run with one recipe can continue from a part that
the other one left. No digest contains how numbers are computed (``means`` in key_effects.py).
"""

from typing import Any

from ropewalk.core.digest import digest_value
from ropewalk.corpus.mix_rules import MixRules
from ropewalk.recipe.key_effects import pick
from ropewalk.recipe.mark_given import mark_ropes
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.rope.scaling import LongRope

INITIAL, CORPUS, EVALUATE, EXPORT = "initial", "corpus", "evaluate", "export"


def extend_part(stage: int) -> str:
    """The name of a stage's extended model."""
    return f"extend {stage}"


def train_part(stage: int) -> str:
    """The name of a stage's training steps, independent of their number."""
    return f"train {stage}"


def write_part(stage: int) -> str:
    """The name of the model that is written at the end of a stage."""
    return f"write {stage}"


def gate_part(stage: int) -> str:
    """The name of a stage's gate results."""
    return f"gate {stage}"


def digest_parts(recipe: Recipe) -> dict[str, str]:
    """The digest of each part's inputs, by the part's name, in the order in which the parts are made."""
    data, found = mark_ropes(recipe.to_json(), recipe.stages), dict[str, str]()

    def make(name: str, own: dict[str, Any], *before: str) -> None:
        found[name] = digest_value([own, [found[each] for each in before]])

    text = {**pick(data["corpus"], "corpus", "text"), "seed": recipe.corpus_seed}
    text["sources"] = [{key: value for key, value in each.items() if key != "path"} for each in text["sources"]]
    first: dict[str, Any] = {"model": data["model"]}
    if isinstance(recipe.model, ModelSource):
        first["seed"] = recipe.seed
        # this tokenizer is trained on the corpus, in the mix's proportions
        if not isinstance(recipe.model.init.tokenizer, str):
            first |= {"text": text, "mix": data["corpus"]["mix"]}
    make(INITIAL, first)
    make(CORPUS, text, INITIAL)
    for number, stage in enumerate(data["stages"]):
        before = write_part(number - 1) if number else INITIAL
        searched = _is_searched(recipe, number)
        own = pick(stage, "stages", "positions") | ({"seed": recipe.seed} if searched else {})
        make(extend_part(number), own, before, *([CORPUS] if searched else []))
        lesson = {**pick_lesson(recipe, number), "seed": recipe.seed, "rows": _pick_sequences(recipe, number)}
        moments = [train_part(number - 1)] if number else []
        make(train_part(number), lesson, extend_part(number), CORPUS, *moments)
        make(write_part(number), pick(stage, "stages", "rates", "merge"), train_part(number))
        make(gate_part(number), _pick_gate(recipe, number), write_part(number))
    last = write_part(len(recipe.stages) - 1)
    make(EVALUATE, pick(data["evaluate"], "evaluate", "evaluate"), last, CORPUS)
    make(EXPORT, pick(data["export"], "export", "export"), last)
    return found


def pick_lesson(recipe: Recipe, stage: int) -> dict[str, Any]:
    """The stage's own keys that decide the content of a step, except its learning rate.

    They stay when training continues.
    """
    return pick(mark_ropes(recipe.to_json(), recipe.stages)["stages"][stage], "stages", "positions", "training")


def _pick_gate(recipe: Recipe, stage: int) -> dict[str, Any]:
    """What decides a gate's verdicts: its own keys, and those of ``evaluate`` that its figures are measured by."""
    gate = recipe.stages[stage].gate
    if gate is None:
        return {}
    measured = ["seed", "precision"]
    measured += [] if gate.retrieval is None else ["pairs"]
    measured += [] if gate.foreign_loss is None else ["foreign"]
    evaluate = recipe.to_json()["evaluate"]
    return {**gate.model_dump(mode="json", exclude={"otherwise"}), "evaluate": {key: evaluate[key] for key in measured}}


def _pick_sequences(recipe: Recipe, stage: int) -> dict[str, Any]:
    """How the stage's sequences are dealt out; keys that the stage leaves out come from the corpus."""
    spec = recipe.stages[stage]
    rules = recipe.rules(spec).model_dump(mode="json", include=set(MixRules.model_fields))
    # A limit that is not reached changes no sequence. With ``spread``, a limit that is reached changes the shares.
    limit = {"max_repeats": recipe.corpus.max_repeats} if recipe.corpus.when_dry == "spread" else {}
    return {"mix": recipe.mix(spec), **rules, **limit}


def _is_searched(recipe: Recipe, stage: int) -> bool:
    rope = recipe.stages[stage].rope
    return isinstance(rope, LongRope) and rope.long_factor is None
