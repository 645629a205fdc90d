"""The report of a run as one page that needs no network: verdicts, curves, positions, corpus, and the recipe.

Importing it needs no torch, and matplotlib is imported for a picture only.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.report.advice import write_advice as write_advice
    from ropewalk.report.corpus import write_corpus_page as write_corpus_page
    from ropewalk.report.page import summarise as summarise
    from ropewalk.report.page import write_report as write_report
    from ropewalk.report.table import Table as Table
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "advice": ("write_advice",),
            "corpus": ("write_corpus_page",),
            "page": ("summarise", "write_report"),
            "table": ("Table",),
        },
    )
