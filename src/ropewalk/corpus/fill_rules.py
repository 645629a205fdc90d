"""Fill-in-the-middle: the middle of a program is moved behind the text after it, so that a model learns to insert."""

import re
from typing import Annotated

from pydantic import Field, model_validator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.spec import Spec

KNOWN_SENTINELS = (
    ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
)
"""Code Llama; Qwen, CodeGemma; StarCoder, Granite; SantaCoder; DeepSeek; GLM."""
_PARTS = ("prefix", "suffix", "middle")
_PART = re.compile("|".join(_PARTS))


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

    @model_validator(mode="after")
    def _check_order(self) -> "FillRules":
        names = self.sentinels or ()
        if len({*names}) < len(names):
            raise ValueError(f"sentinels {', '.join(names)}: a token stands for one place")
        for known in KNOWN_SENTINELS:
            if {*known[:3]} == {*names[:3]} and known[:3] != names[:3]:
                raise ValueError(f"sentinels: the order is prefix, suffix, middle: {', '.join(known[:3])}")
        for part, name in zip(_PARTS, names, strict=False):
            if (said := _PART.search(name.lower())) and said[0] != part:
                raise ValueError(f"sentinels: the order is prefix, suffix, middle, and {name} is given as the {part}")
        return self
