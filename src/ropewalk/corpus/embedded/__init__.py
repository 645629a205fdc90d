"""Text that is there without a network: Python's own, licences, and seeded generators with facts to look up."""

from ropewalk.corpus.embedded.registry import EMBEDDED, Embedded, embedded_documents, read_options

__all__ = ["EMBEDDED", "Embedded", "embedded_documents", "read_options"]
