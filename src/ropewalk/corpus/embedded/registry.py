"""The sources that need no network, by name, and the one function that returns their documents.

The text of a source is a pure function of (name, seed, size, options) under the same Python. Sources made of files
have an end. The generators have none, so a recipe gives their size.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from ropewalk.core.error import UserError
from ropewalk.core.record import Document, Role
from ropewalk.core.spec import Spec
from ropewalk.corpus.embedded.encyclopedia import EncyclopediaDocuments, write_encyclopedia
from ropewalk.corpus.embedded.foreign import FOREIGN
from ropewalk.corpus.embedded.key_value import KeyValueDocuments, write_key_value
from ropewalk.corpus.embedded.licences import LicenceDocuments, read_licences
from ropewalk.corpus.embedded.prose import ProseDocuments, write_prose
from ropewalk.corpus.embedded.python_text import (
    CodeDocuments,
    CodeQuestions,
    TopicDocuments,
    read_code,
    read_topics,
    write_code_questions,
)
from ropewalk.corpus.embedded.questions import StoryQuestions, write_story_questions
from ropewalk.corpus.embedded.repeats import RepeatDocuments, write_repeats
from ropewalk.corpus.embedded.statutes import StatuteDocuments, write_statutes
from ropewalk.corpus.embedded.stories import ChineseStories, EnglishStories, write_stories
from ropewalk.corpus.embedded.word_tasks import WordTaskDocuments, write_word_tasks

_PYTHON = "PSF-2.0 (read from the Python that runs)"
_OWN = "Apache-2.0 (written by this package)"


@dataclass(frozen=True, slots=True)
class Embedded:
    """One source: its description, its options, and the function that makes documents from options and a seed."""

    role: Role
    language: str
    description: str
    licence: str
    options: type[Spec]
    generate: Callable[[Any, int], Iterator[Document]]
    endless: bool = True


EMBEDDED: Mapping[str, Embedded] = MappingProxyType(
    {
        "python_topics": Embedded(
            role="general",
            language="en",
            description="Python's language reference and docstrings",
            licence=_PYTHON,
            options=TopicDocuments,
            generate=read_topics,
            endless=False,
        ),
        "stories_en": Embedded(
            role="general",
            language="en",
            description="long English stories whose ends refer to their beginnings",
            licence=_OWN,
            options=EnglishStories,
            generate=partial(write_stories, "en"),
        ),
        "stories_zh": Embedded(
            role="general",
            language="zh",
            description="long Chinese stories whose ends refer to their beginnings",
            licence=_OWN,
            options=ChineseStories,
            generate=partial(write_stories, "zh"),
        ),
        "encyclopedia_zh": Embedded(
            role="general",
            language="zh",
            description="Chinese encyclopedia volumes about invented regions, with consistent entries",
            licence=_OWN,
            options=EncyclopediaDocuments,
            generate=write_encyclopedia,
        ),
        "prose_zh": Embedded(
            role="general",
            language="zh",
            description="Chinese essays, letters, notices, popular science, tales and reviews, written by hand",
            licence=_OWN,
            options=ProseDocuments,
            generate=write_prose,
            endless=False,
        ),
        "python_code": Embedded(
            role="domain",
            language="code",
            description="Python's standard library, a document per package",
            licence=_PYTHON,
            options=CodeDocuments,
            generate=read_code,
            endless=False,
        ),
        "licences": Embedded(
            role="domain",
            language="en",
            description="licence texts of Python and of what is installed beside it",
            licence="each text's own terms; all permit verbatim copies",
            options=LicenceDocuments,
            generate=read_licences,
            endless=False,
        ),
        "statutes_zh": Embedded(
            role="domain",
            language="zh",
            description="invented Chinese statutes, whose penalties cite and repeat their articles",
            licence=_OWN,
            options=StatuteDocuments,
            generate=write_statutes,
        ),
        "code_questions": Embedded(
            role="instruction",
            language="code",
            description="signature and docstring, answered with the function's source",
            licence=_PYTHON,
            options=CodeQuestions,
            generate=write_code_questions,
            endless=False,
        ),
        "story_questions": Embedded(
            role="instruction",
            language="zh+en",
            description="a long story, Chinese or English, then questions about it; loss on the answers",
            licence=_OWN,
            options=StoryQuestions,
            generate=write_story_questions,
        ),
        "key_value": Embedded(
            role="instruction",
            language="en",
            description="key-value prompts, loss on the answers",
            licence=_OWN,
            options=KeyValueDocuments,
            generate=write_key_value,
        ),
        "repeats": Embedded(
            role="instruction",
            language="zh+en",
            description="passages or single words that return word by word, loss on what returns",
            licence=_OWN,
            options=RepeatDocuments,
            generate=write_repeats,
        ),
        "word_tasks": Embedded(
            role="instruction",
            language="en",
            description="prompts of overwritten keys, frequent values, labels or rows to copy, loss on the answers",
            licence=_OWN,
            options=WordTaskDocuments,
            generate=write_word_tasks,
        ),
    }
)


def embedded_documents(
    name: str, *, seed: int, size_bytes: int | None = None, options: Mapping[str, Any] | None = None
) -> Iterator[Document]:
    """Documents of one source up to ``size_bytes`` bytes of UTF-8. The last document may exceed it.

    Raises UserError as ``read_options`` does.
    """
    chosen = read_options(name, size_bytes=size_bytes, options=options)
    return _cut(EMBEDDED[name].generate(chosen, seed), size_bytes)


def read_options(name: str, *, size_bytes: int | None = None, options: Mapping[str, Any] | None = None) -> Spec:
    """Read the options of a source, with their defaults. No document is made.

    Raises UserError for an unknown name, for unknown options, or for an endless source without a size.
    """
    source = _find_source(name)
    chosen = _read_options(name, source, options or {})
    if size_bytes is None and source.endless:
        raise UserError(
            f"the embedded source {name} needs a size",
            where=f"sources: embedded: {name}",
            why="it is generated, so you must choose its size",
            fix="give it a size, such as size_bytes: 4M",
        )
    return chosen


def _find_source(name: str) -> Embedded:
    if name in FOREIGN:
        raise UserError(
            f"{name} is never trained on",
            where="sources: embedded",
            why="it is kept out of every mix, so that it shows what a model forgets",
            fix=f"name it in evaluate.foreign; sources for training are {', '.join(EMBEDDED)}",
        )
    if name not in EMBEDDED:
        raise UserError(
            f"there is no embedded source {name!r}",
            where="sources: embedded",
            why=f"the sources are {', '.join(EMBEDDED)}",
            fix="choose one of them, or give a path or a hub id",
        )
    return EMBEDDED[name]


def _read_options(name: str, source: Embedded, options: Mapping[str, Any]) -> Spec:
    try:
        return source.options(**options)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UserError(
            f"the embedded source {name} cannot take these options",
            where=f"sources: embedded: {name}, options",
            why=": ".join([".".join(map(str, fault["loc"])), fault["msg"]]) if fault["loc"] else fault["msg"],
            fix=f"its options are {', '.join(source.options.model_fields)}",
        ) from error


def _cut(documents: Iterator[Document], size_bytes: int | None) -> Iterator[Document]:
    total = 0
    for document in documents:
        yield document
        total += len(document.text.encode())
        if size_bytes is not None and total >= size_bytes:
            return
