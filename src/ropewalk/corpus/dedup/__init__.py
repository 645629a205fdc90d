"""Finds copies of documents and of evaluation prompts, by MinHash and n-grams.

Copies are equal or similar documents; prompts of benchmarks are found inside longer texts.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus.dedup.decontaminate import Prompts as Prompts
    from ropewalk.corpus.dedup.decontaminate import read_prompts as read_prompts
    from ropewalk.corpus.dedup.minhash import group_similar as group_similar
    from ropewalk.corpus.dedup.minhash import sign as sign
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "decontaminate": ("Prompts", "read_prompts"),
            "minhash": ("group_similar", "sign"),
        },
    )
