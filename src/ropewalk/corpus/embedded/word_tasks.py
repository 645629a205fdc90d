"""Prompts of the word tasks as training documents. The loss is on the answers only."""

from collections.abc import Iterator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.corpus.embedded.prompt_documents import write_prompt_documents
from ropewalk.probe.word_tasks import WordTask, WordTaskName, make_word_prompt


class WordTaskDocuments(WordTask):
    """Options: those of the probe, and the lengths to draw from, in words; repeat one to see it more often."""

    task: WordTaskName = "overwritten"
    words: tuple[PositiveCount, ...] = (64, 128, 256)


def write_word_tasks(options: WordTaskDocuments, seed: int) -> Iterator[Document]:
    """Documents without end. Each is a prompt of at most a length in words that is drawn from ``options.words``.

    Each task has a stream of random numbers of its own, and none is that of an evaluation.
    """
    rng = stream("embedded", "word_tasks", options.task, seed)
    name = f"word_tasks-{options.task}-{seed}"
    return write_prompt_documents(
        lambda words: make_word_prompt(options, rng, words=words),
        options.words,
        rng,
        source="word_tasks",
        language=options.language,
        name=name,
    )
