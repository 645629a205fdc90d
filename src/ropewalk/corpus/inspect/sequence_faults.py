"""Finds faults in the sequences of a stage that match the mix: sequences without labels, documents that are not read.

``prepare``, ``check`` and ``corpus report`` use the same rule.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ropewalk.core.quantity import format_amount, format_count, format_length
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.long_documents import BeyondSequence

MOST_UNLABELLED = 0.01
"""Largest accepted share of a source's sequences without a label."""


class SequenceFault(NamedTuple):
    """A fault in the sequences of ``source``. ``key`` is the key of the source that corrects it."""

    source: str
    key: str
    message: str


def find_sequence_faults(corpus: Corpus, dataset: Dataset) -> Iterator[SequenceFault]:
    """Yield the faults in the sequences of a dataset, with figures."""
    for name, (without, sequences) in dataset.unlabelled.items():
        if without > MOST_UNLABELLED * sequences:
            message = (
                f"{without:,} of the {format_count(sequences, 'sequence')} of {name} ({without / sequences:.1%}) "
                f"{'has' if without == 1 else 'have'} no label, so the model "
                f"learns nothing from them; long_documents of this source is {corpus.long_documents[name]}"
            )
            yield SequenceFault(name, "long_documents", message)
    for name, beyond in dataset.beyond_sequence.items():
        if beyond.tokens:
            yield SequenceFault(name, "long_documents", tell_beyond(corpus, name, beyond, dataset.context_tokens))


def tell_beyond(corpus: Corpus, name: str, beyond: BeyondSequence, context_tokens: int) -> str:
    """The message about documents of a source that are longer than a sequence and not read."""
    facts = corpus.facts(name)
    parts = [f"{beyond.left_out:,} {'is' if beyond.left_out == 1 else 'are'} left out"] * bool(beyond.left_out)
    parts += [f"{beyond.cut_short:,} {'is' if beyond.cut_short == 1 else 'are'} cut short"] * bool(beyond.cut_short)
    return (
        f"of the {format_count(facts.documents, 'document')} of {name}, {' and '.join(parts)}, because they are "
        "longer than a "
        f"sequence of {format_length(context_tokens)}: {format_amount(beyond.tokens)} of "
        f"{format_amount(facts.tokens)} tokens "
        f"({beyond.tokens / facts.tokens:.1%}) are not read; long_documents of this source is "
        f"{corpus.long_documents[name]}"
    )
