"""Files of whole texts beside the grammars: a line ``=== title``, then the text, up to the next such line.

The built-in text that is only measured and the prose that is trained on have the same format, and the same reader.
"""

from collections.abc import Iterator
from pathlib import Path

_MARK = "=== "
_WORDS = Path(__file__).parent / "words"


def read_titled(file_name: str) -> Iterator[tuple[str, str]]:
    """Yield (title, text) of each part of ``words/file_name``, in the file's order. A text ends with one line break."""
    text = (_WORDS / file_name).read_text("utf-8")
    for part in ("\n" + text).split("\n" + _MARK)[1:]:
        title, _, body = part.partition("\n")
        yield title, body.strip() + "\n"
