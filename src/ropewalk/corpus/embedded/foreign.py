"""Built-in text that is never trained on: laws, speeches, novels and poems in the public domain, English and Chinese.

What a model forgets shows on text outside the mix. So these documents are no source of a corpus, and a recipe that
names them as one is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ropewalk.core.record import Document

_MARK = "=== "
_WORDS = Path(__file__).parent / "words"


@dataclass(frozen=True, slots=True)
class ForeignSource:
    """One built-in source that is only measured."""

    language: str
    description: str


FOREIGN: Mapping[str, ForeignSource] = MappingProxyType(
    {
        "classics_en": ForeignSource("en", "English laws, speeches, novels and poems of 1603 to 1891"),
        "classics_zh": ForeignSource("zh", "Chinese classics, poems and prose up to 1921"),
    }
)


def read_foreign_documents(name: str) -> Iterator[Document]:
    """The documents of a built-in source, each with its title as id, in one fixed order."""
    text = (_WORDS / f"{name}.txt").read_text("utf-8")
    for part in text.split(_MARK)[1:]:
        title, _, body = part.partition("\n")
        body = body.strip() + "\n"
        metadata = {"place": title}
        yield Document(body, name, "general", FOREIGN[name].language, title, metadata=metadata)
