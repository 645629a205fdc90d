"""Text that a run is measured on and never trained on: ``evaluate.foreign``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from ropewalk.core.spec import Spec
from ropewalk.corpus.spec import Source

FOREIGN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


BuiltIn = Literal["essays_en", "essays_zh"]
BUILT_IN: tuple[BuiltIn, ...] = get_args(BuiltIn)


class ForeignText(Spec):
    """Text outside the mix: files, or a built-in source that no corpus may have; exactly one of the two."""

    name: Annotated[str, Field(pattern=FOREIGN_NAME)]
    """Names it in scores and in the report."""
    path: str | None = None
    """A file, a folder or a glob, read like a source of the corpus."""
    embedded: BuiltIn | None = None
    """The project's own essays, letters and poems, of which no corpus is made."""
    text_key: str = "text"
    """The field of a record that holds the text."""
    language: str | None = None
    """Of all documents; null: judged for each by its script."""

    @model_validator(mode="after")
    def _check_origin(self) -> "ForeignText":
        if (self.path is None) == (self.embedded is None):
            raise ValueError(f"foreign text {self.name} needs exactly one of path, embedded")
        return self

    @property
    def source(self) -> Source:
        """The same files as a source of general text; only for a ``path``."""
        assert self.path is not None
        return Source(name=self.name, path=self.path, role="general", language=self.language, text_key=self.text_key)


def find_shared_path(foreign: ForeignText, sources: Sequence[Source]) -> Source | None:
    """The first of ``sources`` whose files may be those of ``foreign``: one path is the other, or lies in it."""
    if foreign.path is None:
        return None
    mine = Path(foreign.path).resolve()
    for source in sources:
        if source.path is not None:
            its = Path(source.path).resolve()
            if mine.is_relative_to(its) or its.is_relative_to(mine):
                return source
    return None
