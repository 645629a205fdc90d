"""Cleans and measures one document: normalises it, and removes boilerplate and personal data.

A text is measured before it is judged. The profile of its language has the thresholds.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus.clean.document import Cleaned as Cleaned
    from ropewalk.corpus.clean.document import clean_document as clean_document
    from ropewalk.corpus.clean.quality import Measures as Measures
    from ropewalk.corpus.clean.quality import measure_text as measure_text
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "document": ("Cleaned", "clean_document"),
            "quality": ("Measures", "measure_text"),
        },
    )
