"""Text that needs no network: Python's own text, licences, and seeded generators of texts with facts to look up."""

from ropewalk.corpus.embedded.foreign import FOREIGN, ForeignSource, read_foreign_documents
from ropewalk.corpus.embedded.registry import EMBEDDED, Embedded, embedded_documents, read_options

__all__ = [
    "EMBEDDED",
    "FOREIGN",
    "Embedded",
    "ForeignSource",
    "embedded_documents",
    "read_foreign_documents",
    "read_options",
]
