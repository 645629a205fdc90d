"""Reads the documents of a source of any kind: records, conversations, pages, code trees, datasets.

``read_source`` yields documents and rejects. Where a file is broken, the error names the file, the line and the cure.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus.read.source import digest_files as digest_files
    from ropewalk.corpus.read.source import read_source as read_source
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "source": ("digest_files", "read_source"),
        },
    )
