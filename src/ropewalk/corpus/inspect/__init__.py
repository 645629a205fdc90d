"""Shows the content of a corpus and the dropped text, so that a person can judge it."""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus.inspect.dropped import inspect_corpus as inspect_corpus
    from ropewalk.corpus.inspect.sequence_faults import find_sequence_faults as find_sequence_faults
    from ropewalk.corpus.inspect.statistics import survey_corpus as survey_corpus
    from ropewalk.corpus.inspect.what_if import weigh as weigh
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "dropped": ("inspect_corpus",),
            "sequence_faults": ("find_sequence_faults",),
            "statistics": ("survey_corpus",),
            "what_if": ("weigh",),
        },
    )
