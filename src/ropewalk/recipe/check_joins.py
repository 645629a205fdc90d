"""Checks of joins and tasks against the lengths of the stages: what a sequence cuts apart is not learned.

A document that is longer than a sequence goes on in another one. Then a question stands apart from its text, and a
chunk from the text that it continues.
"""

from collections.abc import Iterator

from ropewalk.core.quantity import format_length
from ropewalk.corpus.spec import Source
from ropewalk.recipe.finding import Finding
from ropewalk.recipe.spec import Recipe

_PAGES = "docs/corpus-joins.md", "docs/corpus-tasks.md"
_MOST_SHARE = 0.1


def check_joins(recipe: Recipe) -> Iterator[Finding]:
    """Warn of joined documents, and of documents with tasks, that no stage reads as a whole, and of too many tasks."""
    longest = max(stage.context_length for stage in recipe.stages)
    for number, source in enumerate(recipe.corpus.sources):
        yield from _check_source(source, f"corpus.sources.{number}", longest)


def _check_source(source: Source, key: str, longest: int) -> Iterator[Finding]:
    related = source.join.related if source.join is not None else None
    tasks, fill = source.tasks, source.fill_in_middle
    if related is not None and related.target_tokens > longest:
        message = (
            f"joined documents have up to {format_length(related.target_tokens)} tokens, and the longest sequences "
            f"{format_length(longest)}: they are cut"
        )
        place = f"{key}.join.related.target_tokens"
        yield Finding("warning", place, message, _PAGES[0], f"target_tokens: {format_length(longest)}")
    for name, rules in (("tasks", tasks), ("fill_in_middle", fill)):
        if rules is not None and rules.most_tokens > longest:
            cut = "questions from their text" if name == "tasks" else "a middle from its place"
            message = (
                f"documents of up to {format_length(rules.most_tokens)} tokens are changed, and the longest sequences "
                f"have {format_length(longest)}: they part {cut}"
            )
            fix = f"{key}.{name}.most_tokens={format_length(longest)}"
            if name == "tasks" and tasks is not None and tasks.from_tokens > longest:
                fix += f" {key}.tasks.from_tokens={format_length(longest // 2)}"
            yield Finding("warning", f"{key}.{name}.most_tokens", message, _PAGES[1], fix)
    if tasks is not None and tasks.share > _MOST_SHARE:
        message = f"{tasks.share:.0%} of the tokens are tasks; published runs had 1 to 5 %"
        yield Finding("warning", f"{key}.tasks.share", message, _PAGES[1], "tasks.share: 0.02")
