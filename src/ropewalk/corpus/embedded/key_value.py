"""Key-value prompts as training documents. The loss is on the answers only."""

from collections.abc import Iterator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.corpus.embedded.prompt_documents import write_prompt_documents
from ropewalk.probe.key_value import KeyValue, make_key_value_prompt


class KeyValueDocuments(KeyValue):
    """Options: those of the probe, and the lengths to draw from, in words; repeat one to see it more often."""

    words: tuple[PositiveCount, ...] = (16, 32, 64, 128, 256)


def write_key_value(options: KeyValueDocuments, seed: int) -> Iterator[Document]:
    """Documents without end. Each is a prompt of a length in words that is drawn from ``options.words``."""
    rng = stream("embedded", "key_value", seed)
    return write_prompt_documents(
        lambda words: make_key_value_prompt(options, rng, words=words),
        options.words,
        rng,
        source="key_value",
        language=options.language,
        name=f"key_value-{seed}",
    )
