"""Documents in which words or passages return word by word at distances that vary. The loss is on what returns.

Text in which nothing returns does not teach a small model to copy within minutes. Here the only way to a low loss is to
find an earlier place and to continue as it continues. Shuffled words teach it first,
then passages of text.
"""

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice

import numpy as np
from pydantic import model_validator

from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.seed import stream
from ropewalk.core.spec import Spec
from ropewalk.corpus.embedded.encyclopedia import EncyclopediaDocuments, write_encyclopedia
from ropewalk.corpus.embedded.statutes import StatuteDocuments, write_statutes
from ropewalk.corpus.embedded.stories import ChineseStories, EnglishStories, write_stories

_WORD = re.compile(r"\s?(?:[A-Za-z0-9_]+|\S)|\s")
_TEXTS_OF_EACH = 6
_SHARE_AGAIN = 0.5


class RepeatDocuments(Spec):
    """Options: words of a document, of a run of new text, and of a part that returns; each drawn from its range.

    ``shuffled`` draws the new words one by one from all that occur, so that nothing but the repeat foretells them.
    """

    words: tuple[PositiveCount, PositiveCount] = (200, 400)
    run: tuple[PositiveCount, PositiveCount] = (15, 80)
    again: tuple[PositiveCount, PositiveCount] = (8, 80)
    shuffled: bool = False

    @model_validator(mode="after")
    def _check(self) -> "RepeatDocuments":
        for name in ("words", "run", "again"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}={[low, high]}: the fewest are more than the most")
        if self.again[0] < 2:
            raise ValueError(
                f"again={list(self.again)}: a part that returns has two words or more, the first foretells the rest"
            )
        return self


def write_repeats(options: RepeatDocuments, seed: int) -> Iterator[Document]:
    """Yield documents without end."""
    rng = stream("embedded", "repeats", seed)
    texts = _read_texts(int(rng.integers(1 << 31)), shuffled=options.shuffled)
    number = 0
    while True:
        words, returned = _compose(options, texts, rng)
        ends = np.cumsum([len(word) for word in words]).tolist()
        spans = tuple((ends[begin - 1], ends[end - 1]) for begin, end in returned)
        yield Document("".join(words), "repeats", "instruction", "zh+en", f"repeats-{seed}-{number}", loss_spans=spans)
        number += 1


def _read_texts(seed: int, *, shuffled: bool) -> list[list[str]]:
    """The words of some documents of each generated source, none of which any recipe trains on or holds out."""
    sources = (
        partial(write_stories, "en", EnglishStories()),
        partial(write_stories, "zh", ChineseStories()),
        partial(write_encyclopedia, EncyclopediaDocuments()),
        partial(write_statutes, StatuteDocuments()),
    )
    texts = [_WORD.findall(document.text) for source in sources for document in islice(source(seed), _TEXTS_OF_EACH)]
    return [sorted({word for text in texts for word in text})] if shuffled else texts


def _compose(
    options: RepeatDocuments, texts: list[list[str]], rng: np.random.Generator
) -> tuple[list[str], list[tuple[int, int]]]:
    """The words of a document, and the ranges of them that return, each without its first word: none foretells it."""
    words: list[str] = []
    returned: list[tuple[int, int]] = []
    length = _draw(options.words, rng)
    while len(words) < length or not returned:
        if words and rng.random() < _SHARE_AGAIN:
            size, begin = _draw(options.again, rng), int(rng.integers(len(words)))
            returned += [(len(words) + 1, len(words) + size)] if size > 1 else []
            for place in range(begin, begin + size):  # it may run into itself, and so repeat with a short period
                words.append(words[place])
        else:
            text, size = texts[int(rng.integers(len(texts)))], _draw(options.run, rng)
            begin = int(rng.integers(max(1, len(text) - size)))
            chosen = (
                rng.integers(len(text), size=size) if options.shuffled else range(begin, min(begin + size, len(text)))
            )
            words += [text[int(place)] for place in chosen]
    return words, returned


def _draw(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))
