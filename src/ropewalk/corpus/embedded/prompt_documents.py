"""Prompts of a probe as training documents, without end. The loss is on the answers only."""

from collections.abc import Callable, Iterator

import numpy as np

from ropewalk.core.record import Document
from ropewalk.probe.prompt import Prompt


def write_prompt_documents(
    make: Callable[[int], Prompt],
    lengths: tuple[int, ...],
    rng: np.random.Generator,
    *,
    source: str,
    language: str,
    name: str,
) -> Iterator[Document]:
    """Yield a document for each prompt of ``make(words)``; its length in words is drawn from ``lengths``.

    Their ids are ``name`` and a number.
    """
    number = 0
    while True:
        words = lengths[int(rng.integers(len(lengths)))]
        prompt = make(words)
        yield Document(
            text=prompt.text,
            source=source,
            role="instruction",
            language=language,
            id=f"{name}-{number}",
            loss_spans=prompt.answers,
            metadata={"words": words},
        )
        number += 1
