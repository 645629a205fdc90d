"""The ledger of a corpus as tables.

Sums are computed again here, so that the page does not depend on earlier checks.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ropewalk.core.quantity import format_amount, format_bytes
from ropewalk.report.table import Table, TableCell


def tabulate_balance(ledger: Mapping[str, Any], sources: Mapping[str, Any]) -> Table:
    """One line per source: the documents read, their outcomes, and if they add up.

    ``sources`` has each source's facts.
    """
    columns = ["source", "role", "language", "bytes", "read", "dropped", "held out", "train", "tokens", "balance"]
    rows = [_balance(name, entry, facts=sources.get(name, {})) for name, entry in ledger.items()]
    if len(rows) > 1:
        rows.append(_balance("total", _add_up(ledger.values()), facts={}))
    caption = "Documents: read = dropped + held out + train."
    return Table(columns, rows, "lllrrrrrrl", caption, total=len(rows) > 1)


def _add_up(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of all sources as one entry, with all drops under one reason."""
    entries = list(entries)

    def add(amounts: Iterable[Mapping[str, int]]) -> dict[str, int]:
        amounts = list(amounts)
        return {unit: sum(amount[unit] for amount in amounts) for unit in ("documents", "bytes", "tokens")}

    return {
        **{part: add(entry[part] for entry in entries) for part in ("read", "stored", "train", "held_out")},
        "dropped": {"all": add(amount for entry in entries for amount in entry["dropped"].values())},
        "trimmed_bytes": sum(entry["trimmed_bytes"] for entry in entries),
    }


def _balance(name: str, entry: Mapping[str, Any], *, facts: Mapping[str, Any]) -> list[str | TableCell]:
    read, train, held = entry["read"], entry["train"], entry["held_out"]
    return [
        name,
        str(facts.get("role", "")),
        ", ".join(sorted(facts.get("languages", {}))),
        format_bytes(read["bytes"]),
        f"{read['documents']:,}",
        f"{sum(amount['documents'] for amount in entry['dropped'].values()):,}",
        f"{held['documents']:,}",
        f"{train['documents']:,}",
        format_amount(train["tokens"]),
        TableCell("yes", "pass") if balances(entry) else TableCell("NO", "fail"),
    ]


def tabulate_drops(ledger: Mapping[str, Any]) -> Table:
    """Dropped documents: one line per source, one column per reason."""
    reasons = sorted({reason for entry in ledger.values() for reason in entry["dropped"]})
    rows = []
    for name, entry in ledger.items():
        found = [entry["dropped"].get(reason, {"documents": 0, "bytes": 0}) for reason in reasons]
        counts = [_count(amount) for amount in found]
        sizes = (sum(amount["bytes"] for amount in found), entry["trimmed_bytes"])
        rows.append([name, *counts, *(format_bytes(size) if size else "" for size in sizes)])
    columns = ["source", *reasons, "bytes dropped", "bytes trimmed"]
    return Table(
        columns, rows, "l" + "r" * (len(columns) - 1), "Documents dropped, by reason; trimmed: within documents."
    )


def _count(amount: Mapping[str, int]) -> str:
    if amount.get("passages"):
        return f"{amount['passages']:,} cut"
    return f"{amount['documents']:,}" if amount["documents"] else ""


def tabulate_unread(ledger: Mapping[str, Any]) -> Table:
    """Files that lie in a source's folder and are not read: one line per suffix."""
    rows: list[list[str | TableCell]] = [
        [name, each["sort"], f"{each['files']:,}", each["why"]]
        for name, entry in ledger.items()
        for each in entry.get("not_read", ())
    ]
    return Table(["source", "files", "how many", "not read since"], rows, "llrl", "Files that are not read.")


def balances(entry: Mapping[str, Any]) -> bool:
    """True if a source's documents, bytes and tokens all add up."""
    parts = [entry["train"], entry["held_out"], *entry["dropped"].values()]
    sums = [sum(part[unit] for part in parts) for unit in ("documents", "bytes", "tokens")]
    return sums == [
        entry["read"]["documents"],
        entry["read"]["bytes"] - entry["trimmed_bytes"],
        entry["stored"]["tokens"],
    ]
