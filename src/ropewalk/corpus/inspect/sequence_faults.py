"""What is wrong with a stage's rows though they hold the mix: rows that teach nothing, documents that are not read.

Said by one rule wherever it is asked: by ``prepare``, ``check`` and ``corpus report``.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ropewalk.core.quantity import format_amount, format_length
from ropewalk.corpus.mix.dataset import Feed
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.long_documents import BeyondRow

MOST_UNLABELLED = 0.01
"""Of a source's rows: so many without a label may be."""


class RowFault(NamedTuple):
    """``source`` is whose rows they are, ``key`` what mends it."""

    source: str
    key: str
    message: str


def find_row_faults(corpus: Corpus, feed: Feed) -> Iterator[RowFault]:
    """What is to be said of the rows of a feed, with figures."""
    for name, (without, rows) in feed.unlabelled.items():
        if without > MOST_UNLABELLED * rows:
            message = (
                f"{without:,} of the {rows:,} rows of {name} ({without / rows:.1%}) have no label: nothing in them is "
                f"trained on; long_documents of this source is {corpus.long_documents[name]}"
            )
            yield RowFault(name, "long_documents", message)
    for name, beyond in feed.beyond_row.items():
        if beyond.tokens:
            yield RowFault(name, "long_documents", tell_beyond(corpus, name, beyond, feed.context_tokens))


def tell_beyond(corpus: Corpus, name: str, beyond: BeyondRow, context_tokens: int) -> str:
    """What of a source's documents is longer than a row and not read."""
    facts = corpus.facts(name)
    parts = [f"{beyond.left_out:,} are left out"] * bool(beyond.left_out)
    parts += [f"{beyond.cut_short:,} are cut short"] * bool(beyond.cut_short)
    return (
        f"of the {facts.documents:,} documents of {name}, {' and '.join(parts)}, as longer than a row of "
        f"{format_length(context_tokens)}: {format_amount(beyond.tokens)} of {format_amount(facts.tokens)} tokens "
        f"({beyond.tokens / facts.tokens:.1%}) are not read; long_documents of this source is "
        f"{corpus.long_documents[name]}"
    )
