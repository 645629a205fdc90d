"""Real text for study_joins.py: short texts that belong together, and whole documents, in two halves that have no law
or folder in common.

Laws are cut where their chapters begin; a group is a law by its name, with its earlier versions, amendments and
interpretations. Programs are files of the Python library and of two packages that ropewalk needs; a group is a folder.
A group lies in one half only, so no revision of a law that is asked about is trained on.
"""

import json
import re
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers

from compressed_lines import read_records

SHORT = 150, 900
"""Tokens of a text that is joined with others; a sequence is 2,048."""
WHOLE = 900, 1700
"""Tokens of a document that gets tasks: with them it fits into a sequence."""
_LAWS, _BOOKS = "law_zh.jsonl.zst", "books_en.jsonl.zst"
HELD_OUT = 0.25
"""Share of the groups that are asked about."""
_NAMED = re.compile("《([^《》]{2,40}?)(?:[(（][^《》]*)?》")
_STATUS = re.compile("修正案.*|[(（].*|中华人民共和国|关于修改|的决定")
_CHAPTER = re.compile(r"(?m)^(?=#{2,3} )")


class Text(NamedTuple):
    """A document, and where it stands: in which group, and after what."""

    group: str
    name: str
    at: int
    text: str


def missing_files(data: Path) -> list[str]:
    """What a folder lacks of the text that is read."""
    return [name for name in (_LAWS, _BOOKS) if not (data / name).exists()]


def read_laws(data: Path) -> Iterator[Text]:
    """Each law, with the name of the law that it is about."""
    for record in read_records(data / _LAWS):
        text = record["text"].replace("<!-- INFO END -->\n", "")
        title = text.partition("\n")[0].strip("# ")
        found = _NAMED.search(title)
        yield Text(_STATUS.sub("", found[1] if found else title), record["id"], 0, text)


def read_programs() -> Iterator[Text]:
    """Each file of Python's library, of torch and of transformers."""
    library = Path(sysconfig.get_paths()["stdlib"])
    roots = [(library, library), *((Path(each.__file__).parent, Path(each.__file__).parents[1]) for each in _PACKAGES)]
    for root, above in roots:
        for path in sorted(root.rglob("*.py")):
            if root != library or "site-packages" not in path.parts:
                name = path.relative_to(above).as_posix()
                try:
                    yield Text(str(Path(name).parent), name, 0, path.read_text(encoding="utf-8"))
                except UnicodeDecodeError:
                    continue  # a file that a test of Python needs


_PACKAGES = (torch, transformers)


def read_book(data: Path, *, characters: int = 4500) -> Iterator[Text]:
    """The English book in pieces; every twentieth piece begins a group."""
    text = next(read_records(data / _BOOKS))["text"]
    for at, first in enumerate(range(10_000, len(text) - characters, characters)):
        yield Text(str(at // 20), f"piece {at}", at, text[first : first + characters])


def cut_chapters(whole: Iterator[Text]) -> Iterator[Text]:
    """The chapters of each text."""
    for each in whole:
        for at, part in enumerate(_CHAPTER.split(each.text)):
            yield each._replace(at=at, text=part.strip())


def choose(
    texts: Iterator[Text], tokens: tuple[int, int], wanted: tuple[int, int], count: Callable[[str], int]
) -> tuple[list[Text], list[Text]]:
    """Whole groups with about ``wanted`` tokens for training and for asking, of texts of so many ``tokens``.

    Groups are in one random order for all arms and seeds; the first of them are asked about.
    """
    groups = defaultdict(list)
    for each in texts:
        groups[each.group].append(each)
    names = np.random.default_rng(20).permutation(sorted(groups)).tolist()
    border = int(HELD_OUT * len(names))
    halves = []
    for own, most in zip((names[border:], names[:border]), wanted, strict=True):
        taken: list[Text] = []
        size = 0
        for name in own:
            for each in groups[name]:
                if (
                    0.7 * tokens[0] <= len(each.text) <= 6 * tokens[1]  # a token has 1 to 4 characters here
                    and tokens[0] <= (n := count(each.text)) <= tokens[1]
                ):
                    taken.append(each)
                    size += n
            if size >= most:
                break
        halves.append(taken)
    return halves[0], halves[1]


def write(texts: list[Text], path: Path) -> None:
    """As records with ``group``, ``name`` and ``at``, in a random order, since the order of a file tells nothing."""
    order = np.random.default_rng(1).permutation(len(texts)).tolist()
    lines = (
        json.dumps({"id": f"{texts[n].name}#{texts[n].at}", **texts[n]._asdict()}, ensure_ascii=False) for n in order
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
