"""Fill-in-the-middle: the middle of a program is moved behind the text after it, so that a model learns to insert."""

from typing import Annotated

from pydantic import Field

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec


class FillRules(Spec):
    """How the documents of a source are cut into prefix, middle and suffix."""

    rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of documents (of a join: of parts) whose middle is moved to the end; Code Llama took 0.9."""
    suffix_first: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of them the share in the order suffix, prefix, middle; the others are in the order prefix, suffix, middle."""
    most_tokens: PositiveCount = 32768
    """Longer documents stay as they are: a sequence that ends between prefix and middle teaches nothing."""
    sentinels: Annotated[tuple[str, ...], Field(min_length=3, max_length=4)] | None = None
    """The base's tokens before prefix, suffix and middle, and the one after the middle if it has one. Not given: those
    of Code Llama, StarCoder, Qwen, DeepSeek, GLM and the like, by their names."""
