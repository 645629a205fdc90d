"""Finds lengths that look like a wrong unit: ``2K`` is 2,000 tokens, but 2,048 was meant more often than not."""

from collections.abc import Iterator

from ropewalk.core.quantity import format_length
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.spec import Recipe


def check_units(recipe: Recipe) -> Iterator[Finding]:
    """Warn about each sequence or position length that is round in powers of ten and not in powers of two."""
    for index, stage in enumerate(recipe.stages):
        lengths = {"context_length": stage.context_length} | (
            {} if stage.pose is None else {"pose.reach": stage.pose.reach}
        )
        for key, tokens in lengths.items():
            if tokens % 1000 == 0 and tokens % 1024:
                meant = tokens // 10**6 << 20 if tokens % 10**6 == 0 else tokens // 1000 << 10
                message = f"{tokens:,} tokens; did you mean {format_length(meant)} ({meant:,})?"
                place, source = f"stages.{index}.{key}", "K is 1,000 and Ki 1,024, M and Mi likewise: docs/recipe.md"
                yield Finding("warning", place, message, source, f"{place}={format_length(meant)}")
