"""Tasks about a long document, made of its own content and put behind it."""

from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec

Family = Literal["count", "order", "mention", "cloze", "recall", "overwrite", "heading", "frequent"]
FAMILIES: tuple[Family, ...] = get_args(Family)
_OF_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class WrittenRules(Spec):
    """Questions that a model writes behind an OpenAI-compatible endpoint; each answer must stand in the document."""

    endpoint: str
    """Its address up to the version: ``https://api.example.com/v1``, or of a model that this machine serves,
    ``http://localhost:8000/v1``. An answer is asked for once and kept in the store."""
    model: str
    """Its name there."""
    key_from: str | None = None
    """The environment variable with the key; no file holds the key."""
    questions: PositiveCount = 2
    """How many are asked for in a request."""
    sections: PositiveCount = 4
    """Requests for a document: places in its first three quarters, evenly spread."""
    section_characters: PositiveCount = 8000
    """Length of the passage in a request."""
    options: dict[str, Any] = Field(default_factory=lambda: {"temperature": 0})
    """More fields of a request, such as ``max_tokens``."""
    at_once: Annotated[PositiveCount, Field(le=256)] = 4
    """Requests that wait at the same time."""
    tries: Annotated[PositiveCount, Field(le=100)] = 5
    """How often a request is sent that gets no answer, with longer and longer pauses, before the run stops."""
    timeout_s: Annotated[float, Field(gt=0)] = 300
    """Seconds until a request counts as not answered."""

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, given: str) -> str:
        parts = urlsplit(given)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"an endpoint is an address such as http://localhost:8000/v1, not {given!r}")
        if parts.username is not None or parts.password is not None:
            raise ValueError("an address holds no key: name the key's environment variable as key_from")
        return given.rstrip("/")

    @model_validator(mode="after")
    def _check_key(self) -> "WrittenRules":
        parts = urlsplit(self.endpoint)
        if self.key_from is not None and parts.scheme == "http" and parts.hostname not in _OF_THIS_MACHINE:
            raise ValueError("a key is sent over https, or within this machine")
        if clash := sorted({"model", "messages", "stream"} & {*self.options}):
            raise ValueError(f"options: {', '.join(clash)} are set by ropewalk")
        return self


class TaskRules(Spec):
    """Which tasks are put behind the documents of a source, and how many of them."""

    share: Annotated[float, Field(gt=0, le=0.2)] = 0.02
    """Share of the source's tokens that are tasks. More of them raises the figures of synthetic probes and may lower
    all others; published runs had 1 to 5 %."""
    documents: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the long documents that get tasks."""
    from_tokens: Count = 4096
    """Shorter documents get none."""
    most_tokens: PositiveCount = 32768
    """Longer documents get none, and with tasks none becomes longer: a sequence that ends before the questions parts
    them from their text."""
    families: tuple[Family, ...] = ("count", "mention", "recall", "heading")
    """``count`` a word; ``order`` of two words' first mentions; ``mention``: the first or last sentence with a word;
    ``cloze``: a word that was far before; ``recall`` the rest of a line; ``overwrite``: the last value of a key;
    ``heading``: the chapter, article or function in which a word comes first; ``frequent``: the most frequent of three
    words. By default every second one, so that the others can be asked."""
    written: WrittenRules | None = None
    """Questions that a model writes, before those of ``families``: ``{endpoint: http://localhost:8000/v1, model:
    NAME}``."""
    loss: Literal["all", "answers"] = "all"
    """Whether questions are trained on too."""

    @model_validator(mode="after")
    def _check_any(self) -> "TaskRules":
        if not self.families and self.written is None:
            raise ValueError("tasks need families, or a model that writes questions")
        if self.from_tokens > self.most_tokens:
            raise ValueError(
                f"most_tokens is {self.most_tokens}, below from_tokens {self.from_tokens}: no document fits"
            )
        return self
