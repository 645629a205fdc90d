"""Looks at a part of a source's text before anything is prepared: how much there is, and how long its documents are.

The files are listed as the preparation lists them. A text that is a file of its own is measured by its size and not
read. Of files with records the first ones are read, of a few files spread over the source. Files on the network,
datasets of the hub and files of tokens are not read.
"""

from dataclasses import dataclass
from pathlib import Path

from ropewalk.core.record import Document
from ropewalk.corpus.join_rules import FOLDERS
from ropewalk.corpus.read.archive import content_bytes, read_chunks
from ropewalk.corpus.read.bad_input import file_encoding
from ropewalk.corpus.read.code_tree import group_files
from ropewalk.corpus.read.files import File
from ropewalk.corpus.read.remote import is_remote
from ropewalk.corpus.read.source import read_items, source_files
from ropewalk.corpus.spec import Source

_READ_FILES, _READ_BYTES = 8, 1 << 22
"""Most files with records that are read of a source, and most bytes of text of all of them together."""
_LEAST_BYTES = 256
"""What a record counts for at least, so that short and rejected ones do not lead through the whole source."""
_EXCERPT_CHARACTERS, _PIECE_CHARACTERS = 1 << 14, 1 << 10
"""Text of which tokens are counted, and of one document in it: a beginning alone may be a table of contents."""
_MEASURED = ("text", "lines", "json", "csv", "tsv", "parquet", "tar", "zip")
"""Kinds of files whose size says how much text they hold; pages and PDFs have more markup than text."""


@dataclass(frozen=True, slots=True)
class SourceSample:
    """What was seen of the text of a source that lies on this machine."""

    source: str
    files: int
    text_bytes: int
    """Of all files after decompression, at most the source's ``size_bytes``; records are counted with their keys."""
    lengths: tuple[int, ...]
    """Bytes of text of each document that was seen."""
    whole: bool
    """Whether every document was seen."""
    excerpt: str
    """Pieces from the middle of some documents; empty where nothing was read."""

    @property
    def documents(self) -> float:
        """The documents of the whole source, in proportion where a part was seen."""
        seen = sum(self.lengths)
        return len(self.lengths) if self.whole or not seen else len(self.lengths) * max(1.0, self.text_bytes / seen)

    def count_long(self, least_bytes: float) -> int:
        """The documents among those seen that have at least ``least_bytes`` of text."""
        return sum(length >= least_bytes for length in self.lengths)

    def share_in_long(self, least_bytes: float) -> float:
        """The share of the text seen that stands in such documents."""
        held = sum(length for length in self.lengths if length >= least_bytes)
        return held / max(1, sum(self.lengths))


def sample_source(source: Source, *, seed: int) -> SourceSample | None:
    """A sample of ``source``; None where its text does not lie here, or its files do not tell how much text they hold.

    Raises UserError where no file is found, where the text that is read has a fault and the source has ``faults:
    error``, and where a library is missing.
    """
    if source.path is None or source.tokens is not None or is_remote(source.path):
        return None
    found = source_files(source)
    if any(file.kind not in _MEASURED for file in found.files):
        return None
    sizes = [content_bytes(file.path) for file in found.files]
    records = [file for file in found.files if file.is_record or (source.reads_lines and file.kind == "text")]
    lengths, whole, excerpt = _read_records(source, records, seed)
    known = {*records}
    texts = [file for file in found.files if file not in known]
    if texts:
        lengths += _measure_texts(texts, source, found.root)
        chosen = texts[:: max(1, -(-len(texts) // _READ_FILES))] if not excerpt else ()
        excerpt += "\n".join(_cut_middle(_read_begin(file, source)) for file in chosen)
    total = min([sum(sizes), *([] if source.size_bytes is None else [source.size_bytes])])
    return SourceSample(source.name, len(found.files), total, tuple(lengths), whole, excerpt)


def _read_begin(file: File, source: Source) -> str:
    head = next(read_chunks(file.path), b"")
    return head.decode(file_encoding(head, source), errors="ignore")


def _measure_texts(texts: list[File], source: Source, root: Path) -> list[int]:
    by = source.join.by if source.join is not None else ()
    if not {*by} & {*FOLDERS}:
        return [content_bytes(file.path) for file in texts]
    documents = (members for _, members in group_files(texts, by[0], root))
    return [sum(content_bytes(member.file.path) for member in members) for members in documents]


def _read_records(source: Source, records: list[File], seed: int) -> tuple[list[int], bool, str]:
    """Bytes of text of the first documents of some of the files, whether these are all, and pieces of these texts."""
    chosen = records[:: max(1, -(-len(records) // _READ_FILES))]
    lengths, excerpt, whole = list[int](), "", len(chosen) == len(records)
    for file in chosen:
        read, most = 0, _READ_BYTES // len(chosen)
        for item in read_items(source, seed, file):
            if isinstance(item, Document):
                if len(excerpt) < _EXCERPT_CHARACTERS:
                    excerpt += _cut_middle(item.text) + "\n"
                lengths.append(len(item.text.encode()))
            read += max(_LEAST_BYTES, lengths[-1] if isinstance(item, Document) else 0)
            if read >= most:
                whole = False
                break
    return lengths, whole, excerpt


def _cut_middle(text: str) -> str:
    begin = max(0, len(text) - _PIECE_CHARACTERS) // 2
    return text[begin : begin + _PIECE_CHARACTERS]
