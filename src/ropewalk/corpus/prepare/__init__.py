"""Makes a corpus folder from sources: cleans and tokenises each source once, selects documents, writes a ledger.

The shards of a source are made once and found again by their digest. The ledger says where every byte went.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus.prepare.splits import DocumentSplits as DocumentSplits
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "splits": ("DocumentSplits",),
        },
    )
