"""Examples of dropped documents, by source and reason, so that a person can judge a threshold.

Reads the files that the build wrote: ``rejects.jsonl`` of each store and ``dropped.jsonl`` of the corpus. The twenty
shown examples are drawn by their ids, so the same corpus shows the same examples.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from heapq import heappush, heapreplace
from pathlib import Path
from typing import Any

from ropewalk.core.quantity import format_count
from ropewalk.core.read_json import read_written, read_written_lines
from ropewalk.core.seed import seed_for
from ropewalk.corpus.prepare.filters import PASSAGE
from ropewalk.corpus.prepare.splits import COLUMNS, DROPPED
from ropewalk.corpus.tokens.corpus_folder import Corpus

EXAMPLES = 20
REJECTS = "rejects.jsonl"
_SHOWN_CHARACTERS = 240


@dataclass(frozen=True, slots=True)
class Example:
    """One dropped text: its id, the reason with the figure, its place, its size, and its beginning and end."""

    id: str
    why: str
    place: str
    bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class Reason:
    """All drops of one reason in one source: their number, and some examples."""

    source: str
    reason: str
    documents: int
    examples: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect_corpus(corpus: Corpus, *, examples: int = EXAMPLES) -> list[Reason]:
    """For each source and reason, up to ``examples`` examples, drawn by id."""
    found = []
    for source in corpus.sources:
        drops = [*_read(corpus.store(source) / REJECTS), *_read(corpus.folder / source / DROPPED)]
        drawn: defaultdict[str, list[tuple[int, int, Example]]] = defaultdict(list)
        count: defaultdict[str, int] = defaultdict(int)
        for number, (reason, example) in enumerate(drops):
            count[reason] += 1
            entry = (-seed_for("inspect", source, reason, example.id), -number, example)
            if len(drawn[reason]) < examples:
                heappush(drawn[reason], entry)
            elif entry > drawn[reason][0]:
                heapreplace(drawn[reason], entry)
        for reason in sorted(count):
            shown = sorted(drawn[reason], key=lambda entry: -entry[1])
            found.append(Reason(source, reason, count[reason], tuple(example for _, _, example in shown)))
    return found


def read_columns(corpus: Corpus) -> dict[str, list[dict[str, Any]]]:
    """The columns of each source that has scores: their distribution, and documents around thresholds."""
    paths = {source: corpus.folder / source / COLUMNS for source in corpus.sources}
    return {source: read_written(path) for source, path in paths.items() if path.exists()}


def format_columns(columns: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """As text: the percentiles of each column, and a line for each document around a threshold, best and worst."""
    lines = []
    for source, pages in columns.items():
        for page in pages:
            of = f"{source}: {page['column']}"
            shown = ", ".join(f"{at}% {value:.4g}" for at, value in page["percentiles"].items())
            lines.append(f"== {of} of {page['documents']:,} documents: {shown}")
            for part in page["around"]:
                bound = part["bound"] if part["value"] is None else f"{part['bound']} {part['value']:.4g}"
                lines += [f"== {of}, below {bound}", *map(_format_value, part["below"])]
                lines += [f"== {of}, above {bound}", *map(_format_value, part["above"])]
            for end in ("best", "worst"):
                lines += [f"== {source}: {end} by {page['column']}", *map(_format_value, page[end])]
    return "\n".join(lines)


def _format_value(document: Mapping[str, Any]) -> str:
    return f"  {document['value']:.4g}  {document['id']}: {' '.join(document['text'].split())}"


def format_reasons(reasons: list[Reason], totals: Mapping[str, Mapping[str, Any]]) -> str:
    """As text: a heading for each reason, and two or three lines for each example."""
    lines: list[str] = []
    for reason in reasons:
        read = totals[reason.source]["read"]["documents"]
        share = reason.documents / read if read else 0.0
        count = f"{reason.documents:,} of {format_count(read, 'document')} ({share:.2%})"
        if reason.reason == PASSAGE:
            count = f"{reason.documents:,} cut out of documents"
        lines.append(f"== {reason.source}: {reason.reason}, {count}")
        for example in reason.examples:
            lines.append(f"  {example.id}{f': {example.why}' if example.why else ''}")
            if example.place and example.place != example.id:
                lines.append(f"    in {example.place}")
            shown = " ".join(example.text.split())
            if shown:
                lines.append(f"    | {shown[:_SHOWN_CHARACTERS]}{'...' if len(shown) > _SHOWN_CHARACTERS else ''}")
    return "\n".join(lines) if lines else "nothing was dropped"


def _read(path: Path) -> Iterator[tuple[str, Example]]:
    if not path.exists():
        return
    yield from read_written_lines(
        path,
        lambda entry: (
            entry["dropped"],
            Example(entry["id"], entry["why"], entry["place"], entry["bytes"], entry["text"]),
        ),
    )
