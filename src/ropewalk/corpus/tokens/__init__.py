"""Token ids: tokenizers, the memory-mapped store, the corpus folder, other trainers' file formats.

``open_corpus`` opens a finished corpus folder, and ``Corpus`` gives the token ids of any document by its number.
"""

from typing import TYPE_CHECKING

from ropewalk.core.lazy import export_lazily

if TYPE_CHECKING:
    from ropewalk.corpus.tokens.corpus_folder import Corpus as Corpus
    from ropewalk.corpus.tokens.corpus_folder import open_corpus as open_corpus
    from ropewalk.corpus.tokens.foreign_formats import read_tokens as read_tokens
    from ropewalk.corpus.tokens.foreign_formats import write_tokens as write_tokens
    from ropewalk.corpus.tokens.store import StoredDocuments as StoredDocuments
    from ropewalk.corpus.tokens.tokenizer import Tokenizer as Tokenizer
    from ropewalk.corpus.tokens.tokenizer import load_tokenizer as load_tokenizer
else:
    __all__, __getattr__, __dir__ = export_lazily(
        __name__,
        {
            "corpus_folder": ("Corpus", "open_corpus"),
            "foreign_formats": ("read_tokens", "write_tokens"),
            "store": ("StoredDocuments",),
            "tokenizer": ("Tokenizer", "load_tokenizer"),
        },
    )
