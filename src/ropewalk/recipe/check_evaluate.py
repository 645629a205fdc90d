"""Checks that the final evaluation reaches the length for which the run trains."""

from collections.abc import Iterator

from ropewalk.core.quantity import format_length
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.spec import Recipe

_SOURCE = "the target length must be measured"


def check_lengths(recipe: Recipe, base_tokens: int) -> Iterator[Finding]:
    """Check ``evaluate.lengths`` and ``position_lengths`` against the longest stage.

    Both are multiples of ``base_tokens``.
    """
    trained, spec = max(stage.reach_tokens for stage in recipe.stages), recipe.evaluate
    wanted = max(1, trained // base_tokens)
    trained_told = f"the {format_length(trained)} that the run is trained for"
    reached = format_length(max(spec.lengths) * base_tokens)
    if wanted not in spec.lengths:
        message = f"up to {reached}, but not at {trained_told}: add {wanted} x the base's {format_length(base_tokens)}"
        fix = f"evaluate.lengths=[{', '.join(map(str, sorted({*spec.lengths, wanted})))}]"
        yield Finding("warning", "evaluate.lengths", f"retrieval is measured {message}", _SOURCE, fix)
    if spec.position_lengths < wanted:
        reached = format_length(spec.position_lengths * base_tokens)
        message = (
            f"loss by position is measured up to {reached}, which is less than {trained_told}: set it to "
            f"{wanted} x the base's context"
        )
        fix = f"evaluate.position_lengths={wanted}"
        yield Finding("warning", "evaluate.position_lengths", message, _SOURCE, fix)
