"""The sections in which a document is read for its gain that is longer than the model's context.

A book is read whole: in sections of the model's context, one behind another. Each is read as a document of its own, so
a token has the context from the beginning of its section on. The last section ends with the document; in it those
tokens count that stand in no other section.
"""

from typing import NamedTuple

WINDOWS = 4
"""Of a window of a whole reading its last quarter counts."""


class ReadSection(NamedTuple):
    """Tokens ``[begin, end)`` of a document, read together; those from ``first`` on count."""

    begin: int
    end: int
    first: int


def cut_sections(length: int, *, truncated_tokens: int, context_tokens: int) -> list[ReadSection]:
    """The sections of a document of ``length`` tokens: one, where the model reads it at once."""
    if length <= context_tokens:
        return [ReadSection(0, length, truncated_tokens)]
    begins = range(0, length - context_tokens + 1, context_tokens)
    sections = [ReadSection(begin, begin + context_tokens, begin + truncated_tokens) for begin in begins]
    if (done := sections[-1].end) < length:
        begin = length - context_tokens
        sections.append(ReadSection(begin, length, max(done, begin + truncated_tokens)))
    return sections


def count_whole(length: int, *, truncated_tokens: int, context_tokens: int) -> int:
    """Tokens that a whole reading of a document of ``length`` tokens takes: each section once, and its windows."""
    stride = truncated_tokens // WINDOWS
    return sum(
        end - begin + -(-(end - first) // stride) * truncated_tokens
        for begin, end, first in cut_sections(length, truncated_tokens=truncated_tokens, context_tokens=context_tokens)
    )
