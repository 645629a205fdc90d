"""Built-in text that is never trained on: the project's own essays, letters, poems and by-laws, English and Chinese.

What a model forgets shows on text outside the mix. So these documents are no source of a corpus, and a recipe that
names them as one is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ropewalk.core.record import Document
from ropewalk.corpus.embedded.titled import read_titled


@dataclass(frozen=True, slots=True)
class ForeignSource:
    """One built-in source that is only measured."""

    language: str
    description: str


FOREIGN: Mapping[str, ForeignSource] = MappingProxyType(
    {
        "essays_en": ForeignSource("en", "English essays, letters, poems and by-laws of our own"),
        "essays_zh": ForeignSource("zh", "Chinese essays, letters, poems and by-laws of our own"),
    }
)


def read_foreign_documents(name: str) -> Iterator[Document]:
    """The documents of a built-in source, each with its title as id, in one fixed order."""
    for title, body in read_titled(f"{name}.txt"):
        metadata = {"place": title}
        yield Document(body, name, "general", FOREIGN[name].language, title, metadata=metadata)
