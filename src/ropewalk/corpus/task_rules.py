"""Tasks about a long document, made of its own content and put behind it."""

from typing import Annotated, Literal

from pydantic import Field

from ropewalk.core.quantity import Count
from ropewalk.core.spec import Spec

Family = Literal["count", "order", "mention", "cloze", "recall", "overwrite"]
FAMILIES: tuple[Family, ...] = ("count", "order", "mention", "cloze", "recall", "overwrite")


class TaskRules(Spec):
    """Which tasks are put behind the documents of a source, and how many of them."""

    share: Annotated[float, Field(gt=0, le=0.2)] = 0.02
    """Share of the source's tokens that are tasks. More of them raises the figures of synthetic probes and may lower
    all others; published runs had 1 to 5 %."""
    documents: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the long documents that get tasks."""
    from_tokens: Count = 4096
    """Shorter documents get none."""
    families: Annotated[tuple[Family, ...], Field(min_length=1)] = ("count", "mention", "recall")
    """``count`` a word; ``order`` of two words' first mentions; ``mention``: the first or last sentence with a word;
    ``cloze``: a word that was far before; ``recall`` the rest of a line; ``overwrite``: the last value of a key. By
    default every second one, so that the others can be asked."""
    loss: Literal["all", "answers"] = "all"
    """Whether questions are trained on too."""
