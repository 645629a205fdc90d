"""Examples for checking a corpus by eye: sequences with coloured documents, and copies beside the kept text."""

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.core.quantity import format_amount, format_count, format_length
from ropewalk.report.figure import SVG, shorten
from ropewalk.report.section import Section, Strip, TextRun
from ropewalk.report.table import Table

_COLOURS = ("#8DB8DE", "#8FD0B8", "#DDA0CF", "#EBC46A", "#AFA3D6", "#F0A986")
"""Colours of the bars; the page's style sheet has the same six, lighter, for words."""
_SHOWN_CHARACTERS = 90


def make_sequences(stage: Mapping[str, Any]) -> Section:
    """Random sequences of a stage: the words on both sides of every document border."""
    length = format_length(stage["context_tokens"])
    strips = [_make_strip(sequence, stage["context_tokens"]) for sequence in stage["sequences_shown"]]
    lead = (
        f"{format_count(len(strips), 'random sequence')} of {length}. A colour is a document or a segment of "
        "one; no token attends "
        "to another colour. For each, the first and last words and the number of its tokens in the sequence are "
        "shown; the white end of a bar is padding."
    )
    return Section(f"sequences-{stage['stage']}", f"Sequences of stage {stage['stage']}", lead, strips=strips)


def make_copies(survey: Mapping[str, Any]) -> Section:
    """Examples of text that was dropped as a copy, beside the text that was kept."""
    tables = [_tabulate_copies(reason, pairs) for reason, pairs in survey.get("copies", {}).items()]
    note = "" if tables else "No document was dropped as a copy of another."
    lead = (
        "One of equal or nearly equal documents is kept. Examples show the position where the texts first differ."
        if tables
        else ""
    )
    return Section("copies", "Copies", lead, tables, note=note)


def _make_strip(sequence: Mapping[str, Any], context_tokens: int) -> Strip:
    lengths = sequence["lengths"]
    runs = [_make_run(number, segment) for number, segment in enumerate(sequence["segments"])]
    left = len(lengths) - len(runs)
    documents = format_count(len(lengths), "document")
    name = f"sequence {sequence['sequence']:,}, {sequence['source']}"
    return Strip(
        title=f"{name}: {documents}, {sum(lengths):,} of {context_tokens:,} tokens",
        bar=_draw_bar(lengths, context_tokens),
        runs=runs,
        more=f"and {left:,} more" if left else "",
    )


def _make_run(number: int, segment: Mapping[str, Any]) -> TextRun:
    begins, ends = _cut(segment["begins"]), _cut(segment["ends"], last=True)
    text = f"{begins} … {ends}" if ends else begins
    tokens, start, of = segment["tokens"], segment["start"], segment["of"]
    aside = f"{tokens:,} tokens" if tokens == of else f"{tokens:,} tokens from {start:,} of {of:,}"
    return TextRun(text, number, aside)


def _cut(text: str, *, last: bool = False) -> str:
    return text[-_SHOWN_CHARACTERS:] if last else text[:_SHOWN_CHARACTERS]


def _draw_bar(lengths: Sequence[int], context_tokens: int) -> str:
    """The sequence as a bar of coloured parts; the width of a part is the length of its document."""
    parts, at = [], 0.0
    for number, tokens in enumerate(lengths):
        width = tokens / context_tokens * 1000
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<rect x="{at:.2f}" y="0" width="{width:.2f}" height="20" fill="{colour}"/>')
        at += width
    told = f"{format_count(len(lengths), 'document')}: {sum(lengths) / context_tokens:.1%} of the sequence"
    frame = '<rect x="0" y="0" width="1000" height="20" fill="#ffffff"/>'
    place = 'viewBox="0 0 1000 20" preserveAspectRatio="none"'
    return f'<svg xmlns="{SVG}" {place} role="img" aria-label="{told}">{frame}{"".join(parts)}</svg>'


def _tabulate_copies(reason: str, pairs: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for pair in pairs:
        same = pair["similarity"] is None
        likeness = "same text" if same else f"{pair['similarity']:.2f}"
        for side in ("dropped", "kept"):
            shown = pair[side]
            text = "" if same and side == "kept" else shown["text"]
            about = likeness if side == "dropped" else ""
            rows.append([side, shown["source"], shorten(shown["id"]), format_amount(shown["tokens"]), about, text])
    columns = [
        "",
        "source",
        "document",
        "tokens",
        "similarity",
        "text" if reason.startswith("exact") else "text, from where they differ",
    ]
    caption = f"Dropped as {reason}: {format_count(len(pairs), 'example')}."
    return Table(columns, rows, "llwrrw", caption, labels=0, quoted=len(columns) - 1)
