"""Licence texts of the interpreter and of the installed packages: legal English that may be copied verbatim.

A single licence is short, so licences are joined until a document is long. A text that many packages repeat (Apache-2.0
comes with dozens) is used once.
"""

import re
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from ropewalk.core.digest import digest_bytes
from ropewalk.core.quantity import PositiveCount
from ropewalk.core.record import Document
from ropewalk.core.spec import Spec

_LICENCE_NAME = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|COPYRIGHT)", re.IGNORECASE)
_NOT_TEXT = {".py", ".pyc", ".pyi", ".so", ".json", ".html", ".h", ".js"}
_FEWEST_CHARACTERS = 200


class LicenceDocuments(Spec):
    """Options: join licences until a document has this many characters."""

    characters: PositiveCount = 12_000


def read_licences(options: LicenceDocuments, seed: int) -> Iterator[Document]:
    """Yield documents of at least ``options.characters`` characters, sorted by distribution. The last may be shorter.

    The seed has no effect: there is one order, and it ends.
    """
    gathered: list[str] = []
    names: list[str] = []
    for name, texts in _texts_by_distribution():
        for number, text in enumerate(texts):
            gathered.append(text if number else f"Licences of {name}\n\n{text}")
            names.append(name)
            if sum(map(len, gathered)) >= options.characters:
                yield _make_document(gathered, names)
                gathered, names = [], []
    if gathered:
        yield _make_document(gathered, names)


def _make_document(gathered: list[str], names: list[str]) -> Document:
    text = "\n\n\n".join(gathered) + "\n"
    return Document(
        text=text,
        source="licences",
        role="domain",
        language="en",
        id=f"licences-{digest_bytes(text.encode())[:12]}",
        metadata={"distributions": sorted(set(names))},
    )


def _texts_by_distribution() -> Iterator[tuple[str, list[str]]]:
    seen: set[str] = set()
    python = sorted(Path(sysconfig.get_path("stdlib")).glob("LICENSE*"))
    installed = sorted(distributions(), key=lambda found: (found.name or "").lower())
    for name, paths in [("Python", python), *((found.name, _licence_files(found)) for found in installed)]:
        texts = []
        for path in paths:
            text = path.read_text("utf-8", errors="ignore").replace("\r\n", "\n").replace("\f", "\n").strip()
            key = digest_bytes(" ".join(text.split()).encode())
            if len(text) >= _FEWEST_CHARACTERS and key not in seen:
                seen.add(key)
                texts.append(text)
        if texts:
            yield name, texts


def _licence_files(distribution: Distribution) -> list[Path]:
    files = [
        file
        for file in distribution.files or ()
        if _LICENCE_NAME.search(file.name) and file.suffix.lower() not in _NOT_TEXT
    ]
    paths = (Path(str(distribution.locate_file(file))) for file in sorted(files, key=str))
    return [path for path in paths if path.is_file()]
