"""From files to sequences of tokens: read, clean, de-duplicate, tokenise once, mix and pack by index.

Each of these steps has a folder here. The ``CorpusSpec`` of a recipe names the sources; ``build`` in ``prepare`` makes
the corpus folder, ``open_corpus`` in ``tokens`` opens it, and ``mix`` makes the dataset of a stage. Needs no torch.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus import clean as clean
    from ropewalk.corpus import dedup as dedup
    from ropewalk.corpus import embedded as embedded
    from ropewalk.corpus import inspect as inspect
    from ropewalk.corpus import join as join
    from ropewalk.corpus import mix as mix
    from ropewalk.corpus import prepare as prepare
    from ropewalk.corpus import read as read
    from ropewalk.corpus import text as text
    from ropewalk.corpus import tokens as tokens
    from ropewalk.corpus.join_rules import JoinRules as JoinRules
    from ropewalk.corpus.mix_rules import MixRules as MixRules
    from ropewalk.corpus.prompt_rules import PromptRules as PromptRules
    from ropewalk.corpus.spec import CorpusSpec as CorpusSpec
    from ropewalk.corpus.spec import Source as Source
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "join_rules": ("JoinRules",),
            "mix_rules": ("MixRules",),
            "prompt_rules": ("PromptRules",),
            "spec": ("CorpusSpec", "Source"),
        },
        folders=("clean", "dedup", "embedded", "inspect", "join", "mix", "prepare", "read", "text", "tokens"),
    )
