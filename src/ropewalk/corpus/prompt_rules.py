"""Which evaluation prompts are kept out of the training text, how much of one counts, and what is then done."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ropewalk.core.spec import Spec

PROBES = "probes"
"""In ``files``: the prompts that the recipe's own probes ask."""


class PromptRules(Spec):
    """What ``decontaminate`` does. A list of files alone is short for ``{files: [...]}``."""

    files: tuple[str, ...] = ()
    """Files, folders or globs of evaluation prompts, of every kind that a source reads; ``probes`` for the recipe's own
    evaluation."""
    overlap: float = Field(default=0.5, gt=0, le=1)
    """Share of a prompt's words from which a document that holds them, in long runs, is taken to hold the prompt."""
    action: Literal["cut", "drop"] = "cut"
    """What goes: the passages, with the rest of their sentences, or the document. Of instructions, and of documents
    that come as token ids, always the document."""
    text_key: str | None = None
    """The records' key that holds the prompt; None: each of those in common use (``question``, ``context`` ...)."""


def _from_list(given: Any) -> Any:
    return {"files": given} if isinstance(given, list | tuple) else given


GivenRules = Annotated[PromptRules, BeforeValidator(_from_list, json_schema_input_type=PromptRules | tuple[str, ...])]
"""The rules as a recipe may spell them."""
