"""Checks that the final evaluation reaches the length for which the run trains."""

from collections.abc import Iterator

from ropewalk.core.quantity import format_length
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.multiple import count_tokens, find_multiple
from ropewalk.recipe.spec import Recipe

_SOURCE = "the target length must be measured"


def check_lengths(recipe: Recipe, base_tokens: int) -> Iterator[Finding]:
    """Check ``evaluate.lengths`` and ``position_lengths`` against the longest stage.

    Both are multiples of ``base_tokens``.
    """
    spec = recipe.evaluate
    trained = max(base_tokens, *(stage.reach_tokens for stage in recipe.stages))
    wanted = find_multiple(trained, base_tokens)
    trained_told = f"the {format_length(trained)} that the run is trained for"
    reached = format_length(count_tokens(max(spec.lengths), base_tokens))
    if trained not in [count_tokens(each, base_tokens) for each in spec.lengths]:
        message = f"up to {reached}, but not at {trained_told}: add {wanted} x the base's {format_length(base_tokens)}"
        fix = f"evaluate.lengths=[{', '.join(map(str, sorted({*spec.lengths, wanted})))}]"
        yield Finding("warning", "evaluate.lengths", f"retrieval is measured {message}", _SOURCE, fix)
    if (far_tokens := count_tokens(spec.position_lengths, base_tokens)) < trained:
        reached = format_length(far_tokens)
        message = (
            f"loss by position is measured up to {reached}, which is less than {trained_told}: set it to "
            f"{wanted} x the base's context"
        )
        fix = f"evaluate.position_lengths={wanted}"
        yield Finding("warning", "evaluate.position_lengths", message, _SOURCE, fix)
