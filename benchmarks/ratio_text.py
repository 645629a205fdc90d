"""The text of recipes/study-ratio.yaml that does not ship: Chinese law, Chinese poems and novels, an English novel.

    python benchmarks/ratio_text.py DATA OUT      # writes OUT/law_zh.jsonl and three more

DATA is a folder with ``law_zh.jsonl.zst``, ``poems_zh.jsonl.zst``, ``books_zh.jsonl.zst`` and ``books_en.jsonl.zst``. A
text that is not there is skipped and named: then its source must leave the recipe, too. Documents are drawn in one
fixed random order. Novels are cut where their chapters begin, because two documents give no held-out text.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from compressed_lines import read_records
from ropewalk.core.artifact import write_whole

_CHAPTER_ZH = re.compile(r"(?m)^(?=第[0-9一二三四五六七八九十百零〇]+[章回])")
_CHAPTER_EN = re.compile(r"(?m)^(?=CHAPTER [IVXL]+)")
_FEWEST = 40
"""Characters of a piece of a novel; less is a line of the table of contents."""


def read_texts(path: Path) -> Iterator[str]:
    """The text of each record."""
    return (record["text"] for record in read_records(path))


def cut(texts: Iterator[str], border: re.Pattern[str]) -> Iterator[str]:
    """The chapters of each text, with plain line ends."""
    for text in texts:
        for part in border.split(text.replace("\r\n", "\n")):
            if len(part.strip()) >= _FEWEST:
                yield part.strip()


SOURCES: Mapping[str, tuple[str, int, Callable[[Iterator[str]], Iterator[str]]]] = {
    "law_zh": ("law_zh", 800_000, lambda texts: (text.replace("<!-- INFO END -->\n", "") for text in texts)),
    "poems_zh": ("poems_zh", 500_000, lambda texts: texts),
    "novels_zh": ("books_zh", 600_000, lambda texts: cut(texts, _CHAPTER_ZH)),
    "novel_en": ("books_en", 400_000, lambda texts: cut(texts, _CHAPTER_EN)),
}
"""Name of the source -> its file, its characters, and how a file's texts become documents."""


def write_sources(data: Path, out: Path) -> None:
    """Write each source whose file is there, and say what became of it."""
    out.mkdir(parents=True, exist_ok=True)
    for name, (file, characters, split) in SOURCES.items():
        path = data / f"{file}.jsonl.zst"
        if not path.exists():
            print(f"{name}: skipped, {data} has no {path.name}")
            continue
        texts = list(split(read_texts(path)))
        lines, size = [], 0
        for place in np.random.default_rng(20).permutation(len(texts)).tolist():
            if size >= characters:
                break
            lines.append(json.dumps({"text": texts[place]}, ensure_ascii=False))
            size += len(texts[place])
        write_whole(out / f"{name}.jsonl", "\n".join(lines) + "\n")
        print(f"{name}: {len(lines)} of {len(texts)} documents, {size} characters")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    write_sources(given.data, given.out)


if __name__ == "__main__":
    main()
