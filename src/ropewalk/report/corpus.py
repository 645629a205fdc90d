"""One page about a corpus, from its counted figures: the outcome of every document, and the contents of sequences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk.core.artifact import write_whole
from ropewalk.core.quantity import format_amount, format_bytes, format_count, format_length
from ropewalk.report.corpus_charts import draw_lengths, draw_prefixes
from ropewalk.report.corpus_examples import make_copies, make_sequences
from ropewalk.report.corpus_scores import make_scores
from ropewalk.report.html import HeadFigure, Page, render
from ropewalk.report.ledger import balances, tabulate_balance, tabulate_drops, tabulate_unread
from ropewalk.report.section import Section
from ropewalk.report.table import Table, TableCell
from ropewalk.report.visible import show_all

_SEQUENCES_OFF = 1.0


def write_corpus_page(target: Path, name: str, survey: Mapping[str, Any]) -> None:
    """Write the page with the figures that corpus/inspect/statistics counted for the corpus called ``name``."""
    survey = show_all(survey)
    page = Page(
        title=f"Corpus of {name}",
        what=f"{format_count(len(survey['sources']), 'source')}, digest {survey['digest']}",
        verdict=_tell_verdict(survey),
        verdict_mark="pass" if _holds(survey) else "fail",
        tiles=_make_tiles(survey),
        summary=_tabulate_roles(survey),
        sections=[
            _make_ledger(survey),
            _make_lengths(survey),
            _make_languages(survey),
            *(_make_mix(survey, stage) for stage in survey["stages"]),
            *(_tell_undrawn(each) for each in survey.get("undrawn", [])),
            make_copies(survey),
            *([make_scores(survey["columns"])] if survey.get("columns") else []),
            *(make_sequences(stage) for stage in survey["stages"]),
            _make_licences(survey),
            *([_make_card(survey["card"])] if "card" in survey else []),
        ],
        made_from="the corpus folder and its token stores",
    )
    write_whole(target, render(page))


def _holds(survey: Mapping[str, Any]) -> bool:
    fits = all(stage["most_sequences_off"] <= _SEQUENCES_OFF + 1e-9 for stage in survey["stages"])
    return fits and not survey.get("undrawn") and all(balances(entry) for entry in survey["ledger"].values())


def _tell_verdict(survey: Mapping[str, Any]) -> str:
    broken = [name for name, entry in survey["ledger"].items() if not balances(entry)]
    told = (
        f"The ledger does not balance: {', '.join(broken)}."
        if broken
        else "The ledger balances: every document, byte and token has an entry."
    )
    if survey["stages"]:
        off = max(stage["most_sequences_off"] for stage in survey["stages"])
        told += f" No source differs by more than {off:.2f} sequences from its share at any time."
    if undrawn := survey.get("undrawn"):
        told += f" The text cannot give the mix of stage {', '.join(str(each['stage']) for each in undrawn)}."
    if faults := sum(len(stage["faults"]) for stage in survey["stages"]):
        told += f" {faults} warning{'s' * (faults > 1)} about the content of sequences: see the mix of each stage."
    return told


def _make_tiles(survey: Mapping[str, Any]) -> list[HeadFigure]:
    ledger = survey["ledger"].values()
    read, train = (sum(entry[part]["documents"] for entry in ledger) for part in ("read", "train"))
    tokens = sum(entry["train"]["tokens"] for entry in ledger)
    context = _add(survey["context"].values())
    tiles = [
        HeadFigure("documents trained on", "", f"{train:,}", f"of {read:,} read", ""),
        HeadFigure("tokens trained on", "", format_amount(tokens), f"{format_amount(_held_out(survey))} held out", ""),
    ]
    tiles += [
        HeadFigure(f"tokens with more than {format_length(int(length))} of their document before them", "",
             _percent(count, tokens), format_amount(count), "")
        for length, count in context.items()
        if length != "tokens"
    ]  # fmt: skip
    for stage in survey["stages"]:
        all_tokens = stage["sequences"] * stage["context_tokens"]
        name = f"padding of the {format_count(stage['sequences'], 'sequence')} of stage {stage['stage']}"
        tiles.append(HeadFigure(name, "", _percent(stage["padding_tokens"], all_tokens), "", ""))
    return tiles


def _held_out(survey: Mapping[str, Any]) -> int:
    return sum(entry["held_out"]["tokens"] for entry in survey["ledger"].values())


def _tabulate_roles(survey: Mapping[str, Any]) -> Table:
    columns = ["role", "sources", "documents", "tokens", "of all", *_context_columns(survey)]
    total = sum(facts["tokens"] for facts in survey["sources"].values())
    rows = []
    for role in dict.fromkeys(facts["role"] for facts in survey["sources"].values()):
        own = [name for name, facts in survey["sources"].items() if facts["role"] == role]
        documents, tokens = (sum(survey["sources"][name][unit] for name in own) for unit in ("documents", "tokens"))
        context = _add(survey["context"][name] for name in own)
        rows.append([role, str(len(own)), f"{documents:,}", format_amount(tokens), _percent(tokens, total),
                     *_context_cells(context)])  # fmt: skip
    return Table(columns, rows, "l" + "r" * (len(columns) - 1))


def _make_ledger(survey: Mapping[str, Any]) -> Section:
    ledger = survey["ledger"]
    tables = [tabulate_balance(ledger, survey["sources"]), _tabulate_amounts(ledger)]
    if any(entry["dropped"] for entry in ledger.values()):
        tables.insert(1, tabulate_drops(ledger))
    if any(entry.get("not_read", ()) for entry in ledger.values()):
        tables.append(tabulate_unread(ledger))
    lead = (
        "All text that was read is either kept or dropped for a reason. A source balances if documents, bytes and "
        "tokens all add up."
    )
    points = [
        f"{name}: PII was masked in the answers of {format_count(entry['masked_answers'], 'document')}"
        for name, entry in ledger.items()
        if entry.get("masked_answers")
    ]
    return Section("ledger", "Ledger", lead, tables, points=points)


def _tabulate_amounts(ledger: Mapping[str, Any]) -> Table:
    rows = []
    for name, entry in ledger.items():
        parts = {"read": entry["read"], **{f"- {reason}": amount for reason, amount in entry["dropped"].items()}}
        if entry["trimmed_bytes"]:
            parts["- trimmed within documents"] = {"documents": 0, "bytes": entry["trimmed_bytes"], "tokens": 0}
        parts |= {"= held out": entry["held_out"], "= trained on": entry["train"]}
        for number, (part, amount) in enumerate(parts.items()):
            figures = [f"{amount['documents']:,}", format_bytes(amount["bytes"]), format_amount(amount["tokens"])]
            shown = [
                figure if amount[unit] else ""
                for figure, unit in zip(figures, ("documents", "bytes", "tokens"), strict=True)
            ]
            rows.append(["" if number else name, part, *shown])
    caption = "All amounts. Tokens are counted in the token store, so text that cleaning drops has no token count."
    return Table(["source", "", "documents", "bytes", "tokens"], rows, "llrrr", caption, labels=1)


def _make_lengths(survey: Mapping[str, Any]) -> Section:
    rows = [[name, *_context_row(context)] for name, context in survey["context"].items()]
    rows.append(["all documents", *_context_row(_add(survey["context"].values()))])
    for stage in survey["stages"]:
        length = format_length(stage["context_tokens"])
        rows.append([f"as read in stage {stage['stage']}, sequences of {length}", *_context_row(stage["context"])])
    table = Table(["documents of", "tokens", *_context_columns(survey)], rows, "l" + "r" * (len(rows[0]) - 1))
    lead = (
        "Only a long document teaches a long context; short documents packed together do not. The columns give the "
        "tokens that have more than this number of earlier tokens of their own document."
    )
    roles = {name: str(facts["role"]) for name, facts in survey["sources"].items()}
    return Section("lengths", "Lengths", lead, [table], [draw_lengths(survey["lengths"], roles)])


def _make_languages(survey: Mapping[str, Any]) -> Section:
    found = sorted({language for facts in survey["sources"].values() for language in facts["languages"]})
    rows = []
    for name, facts in survey["sources"].items():
        cells = [facts["languages"].get(language) for language in found]
        shown = [
            f"{format_amount(cell['tokens'])} in {format_count(cell['documents'], 'document')}" if cell else ""
            for cell in cells
        ]
        rows.append([str(facts["role"]), name, *shown])
    rows.sort(key=lambda row: ["general", "domain", "instruction"].index(row[0]))
    caption = "Tokens that are trained on, and the number of their documents."
    table = Table(["role", "source", *found], rows, "ll" + "r" * len(found), caption)
    return Section("languages", "Languages", tables=[table])


def _make_mix(survey: Mapping[str, Any], stage: Mapping[str, Any]) -> Section:
    total = max(1, stage["tokens"])
    rows: list[list[str | TableCell]] = []
    for use in stage["strata"]:
        realised = use["tokens"] / total
        cut = f"{use['cut_documents']:,}" if use["cut_documents"] else ""
        rows.append([use["name"], str(survey["sources"][use["source"]]["role"]), f"{use['planned']:.2%}",
                     f"{realised:.2%}", format_amount(use["tokens"]), format_amount(use["held_tokens"]),
                     f"{use['repeats']:.2f}", cut])  # fmt: skip
    columns = ["stratum", "role", "planned", "realised", "tokens", "held", "repeats", "split although they fit"]
    if not any(use["cut_documents"] for use in stage["strata"]):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    padding = stage["padding_tokens"] / max(1, stage["sequences"] * stage["context_tokens"])
    lead = (
        f"{format_count(stage['sequences'], 'sequence')} of {format_length(stage['context_tokens'])}: "
        f"{format_amount(stage['tokens'])} tokens in {format_count(stage['segments'], 'segment')} of documents, "
        f"{padding:.3%} padding. No source differs by more than {stage['most_sequences_off']:.2f} sequences from its "
        "share of the tokens so far."
    )
    table = Table(columns, rows, "ll" + "r" * (len(columns) - 2))
    pictures = [draw_prefixes(stage)] if stage["sequences"] > 1 else []
    number = stage["stage"]
    return Section(f"mix-{number}", f"Mix of stage {number}", lead, [table], pictures, points=stage["faults"])


def _make_licences(survey: Mapping[str, Any]) -> Section:
    rows = [
        [name, str(facts["role"]), format_amount(facts["tokens"]), facts["license"] or TableCell("not stated", "aim")]
        for name, facts in survey["sources"].items()
    ]
    lead = "As the recipe states them; embedded sources have their own licences."
    return Section("licences", "Licences", lead, [Table(["source", "role", "tokens", "licence"], rows, "llrl")])


def _make_card(card: Mapping[str, Any]) -> Section:
    lead = "As the data card tells it (corpus-card.md), which also has examples of what was left out."
    points = [*card["origin"], *(f"filter: {line}" for line in card["filters"])]
    return Section("origin", "Origin and filters", lead, points=points)


def _add(contexts: Any) -> dict[str, int]:
    contexts = list(contexts)
    return {key: sum(context[key] for context in contexts) for key in contexts[0]}


def _context_columns(survey: Mapping[str, Any]) -> list[str]:
    first = next(iter(survey["context"].values()))
    return [f"> {format_length(int(length))}" for length in first if length != "tokens"]


def _context_row(context: Mapping[str, int]) -> list[str]:
    return [format_amount(context["tokens"]), *_context_cells(context)]


def _context_cells(context: Mapping[str, int]) -> list[str]:
    return [_percent(count, context["tokens"]) for length, count in context.items() if length != "tokens"]


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if part else "0"


def _tell_undrawn(undrawn: Mapping[str, Any]) -> Section:
    number, points = undrawn["stage"], [undrawn["why"], undrawn["fix"]]
    lead = f"The text cannot give this mix: {undrawn['fault']}."
    return Section(f"mix-{number}", f"Mix of stage {number}", lead, points=points)
