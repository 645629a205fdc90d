"""The forecast time of a run's evaluation: forward passes of all measured models over what the recipe asks for.

It is an upper bound of what is read, since held-out text may be too short for all that is asked. Left out are what
cannot be known before files are read (``benchmarks``), short abilities, and the tokens that a model writes for RULER.
"""

from collections.abc import Iterator

from ropewalk.plan.flops import token_flops
from ropewalk.plan.plan import Plan
from ropewalk.plan.planned_machine import device_kind
from ropewalk.plan.precision import choose_reading_precision
from ropewalk.plan.step_time import FITTED, in_float32
from ropewalk.probe.key_value import KeyValue
from ropewalk.probe.kinds import count_answers
from ropewalk.recipe.multiple import count_tokens
from ropewalk.recipe.spec import EvaluateSpec, ModelSource, Recipe
from ropewalk.shape.model_shape import ModelShape

_LAW_CONTEXTS = 7
"""Of the law of loss by context."""


def estimate_evaluation(recipe: Recipe, shape: ModelShape, plan: Plan) -> float:
    """Seconds of the evaluation's forward passes on the ranks of ``plan``, the last stage's."""
    machine, slower = plan.machine, FITTED.products
    if choose_reading_precision(recipe.evaluate.precision, device=device_kind(machine)) == "float32":
        machine = in_float32(machine)
    products = slower.get(machine.generation, slower[None]) if machine.generation or machine.generic else 1.0
    texts = sum(source.role != "instruction" for source in recipe.corpus.sources)
    seconds = 0.0
    for length, tokens in list_forwards(recipe.evaluate, shape.context_tokens, texts):
        flops = token_flops(shape, length)
        each = products * flops.linear / machine.matmul_flops + flops.attention / machine.attention_forward_flops
        seconds += tokens * each
    return count_measured_models(recipe) * seconds / plan.ranks


def count_measured_models(recipe: Recipe) -> int:
    """The models that are measured: the trained one, its base, and of a single stage the base with its positions."""
    if isinstance(recipe.model, ModelSource):
        return 1
    return 3 if len(recipe.stages) == 1 else 2


def list_forwards(spec: EvaluateSpec, base_tokens: int, sources: int) -> Iterator[tuple[int, float]]:
    """Lengths in tokens, with the tokens that one model reads in texts of that length.

    ``sources`` are those of text. Each of ``spec.documents`` is read whole for the loss by position, and again for the
    context gain: whole, and in windows of 4/3 of the base's context, of which the last quarter counts.
    """
    probes = (KeyValue(pairs=spec.pairs), *spec.probes)
    prompts = sum(spec.answers / count_answers(probe) for probe in probes)
    if spec.grid is not None:
        prompts += spec.grid.prompts * len(spec.grid.tasks) * len(spec.grid.fillers) * spec.depths
    if spec.ruler is not None:
        prompts += spec.ruler.samples * len(spec.ruler.tasks)
    for multiple in spec.lengths:
        tokens = count_tokens(multiple, base_tokens)
        yield tokens, prompts * tokens
    whole, stride = count_tokens(spec.position_lengths, base_tokens), -(-base_tokens // 3)
    yield whole, spec.documents * whole
    if whole > 4 * stride:
        yield whole, spec.documents * whole
        yield 4 * stride, spec.documents * -(-(whole - 4 * stride) // stride) * 4 * stride
    for power in range(_LAW_CONTEXTS) if spec.context_law else ():
        yield whole >> power, spec.documents * whole
    yield base_tokens, spec.short_tokens * (sources + len(spec.foreign))
