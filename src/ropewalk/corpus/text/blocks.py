"""Splits a text into blocks that end at line ends, so that no step of normalization holds several copies of the text.

Python keeps one, two or four bytes per character, by the widest character of a text. So an emoji makes a whole book
four times as large; in blocks, only its own block grows. Steps that cross the borders of lines are done here, with the
same result as for the undivided text.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, compress, count, groupby, islice
from operator import eq
from sys import maxsize

_BLOCK_CHARACTERS = 1 << 20
_BATCH_LINES = 1 << 14
_BLANK_LINES = re.compile(r"\n{4,}")
_MOST_BREAKS = 3
_MANY = 4
_FEW_LETTERS = 12
_ENOUGH_LETTERS = re.compile(rf"(?:[\W_]*[^\W_]){{{_FEW_LETTERS}}}")
CELL_BORDER = re.compile(r"[|\t]")
"""Separates the cells of a table row."""


def blocks_of_lines(text: str) -> Iterator[str]:
    """Yield parts of about a million characters. Each part ends at a line end, if there is one."""
    start = 0
    while len(text) - start > _BLOCK_CHARACTERS:
        end = text.find("\n", start + _BLOCK_CHARACTERS) + 1
        if end <= 0:
            break
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def cut_again(blocks: Iterable[str]) -> Iterator[str]:
    """Yield blocks of the usual size for the text in ``blocks``. The given blocks may have become shorter."""
    held: list[str] = []
    size = 0
    for block in blocks:
        while end := block.find("\n", max(0, _BLOCK_CHARACTERS - size)) + 1:
            yield "".join((*held, block[:end]))
            held, size, block = [], 0, block[end:]
        held.append(block)
        size += len(block)
    yield "".join(held)


def limit_breaks(blocks: Iterable[str], *, within: bool = True) -> list[str]:
    """Remove the line breaks at both ends of the text. With ``within``, keep at most three in a row inside it."""
    most = _MOST_BREAKS if within else maxsize
    limited: list[str] = []
    pending = 0
    for block in blocks:
        inner = block.strip("\n")
        if not inner:
            pending += len(block)
            continue
        before = len(block) - len(block.lstrip("\n"))
        if limited:
            limited[-1] += "\n" * min(most, pending + before)
        limited.append(_BLANK_LINES.sub("\n" * _MOST_BREAKS, inner) if within else inner)
        pending = len(block) - before - len(inner)
    return limited or [""]


def is_few_letters(line: str) -> bool:
    """Whether every cell of a line has fewer than 12 letters and digits. Such a line (an empty one, a refrain, a row of
    short cells) has little content and may occur many times."""
    if len(line) < _FEW_LETTERS:
        return True
    cells = CELL_BORDER.split(line) if "|" in line or "\t" in line else (line,)
    return not any(map(_ENOUGH_LETTERS.match, cells))


def join_repeats(blocks: list[str]) -> list[str]:
    """Replace four or more equal lines in a row by one line, where they have more than a few letters."""
    before: list[str] = []
    for lines in _lines(blocks):
        near = before + lines if before else lines
        places = compress(count(), map(eq, near, near[_MANY - 1 :]))
        equal = {near[at] for at in places if len(set(near[at : at + _MANY])) == 1}
        if not all(map(is_few_letters, equal)):
            return list(_join_runs(blocks))
        before = near[1 - _MANY :]
    return blocks


def _join_runs(blocks: list[str]) -> Iterator[str]:
    runs = ((line, sum(1 for _ in equal)) for line, equal in groupby(chain.from_iterable(_lines(blocks))))
    kept = (line for line, copies in runs for _ in range(copies if copies < _MANY or is_few_letters(line) else 1))
    batch = list(islice(kept, _BATCH_LINES))
    while batch:
        following = list(islice(kept, _BATCH_LINES))
        yield "\n".join(batch) + ("\n" if following else "")
        batch = following


def _lines(blocks: list[str]) -> Iterator[list[str]]:
    """Yield the lines of each block. Every block except the last one ends with a line break."""
    for number, block in enumerate(blocks, start=1):
        lines = block.split("\n")
        yield lines if number == len(blocks) else lines[:-1]
