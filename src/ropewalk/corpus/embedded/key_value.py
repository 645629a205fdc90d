"""Key-value prompts as training documents. The loss is on the answers only."""

from collections.abc import Iterator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.probe.key_value import KeyValue, make_key_value_prompt


class KeyValueDocuments(KeyValue):
    """Options: those of the probe, and the lengths to draw from, in words; repeat one to see it more often."""

    words: tuple[PositiveCount, ...] = (16, 32, 64, 128, 256)


def write_key_value(options: KeyValueDocuments, seed: int) -> Iterator[Document]:
    """Yield documents without end. Each is a prompt of a length in words that is drawn from ``options.words``."""
    rng = stream("embedded", "key_value", seed)
    number = 0
    while True:
        words = options.words[int(rng.integers(len(options.words)))]
        prompt = make_key_value_prompt(options, rng, words=words)
        yield Document(
            text=prompt.text,
            source="key_value",
            role="instruction",
            language=options.language,
            id=f"key_value-{seed}-{number}",
            loss_spans=prompt.answers,
            metadata={"words": words},
        )
        number += 1
