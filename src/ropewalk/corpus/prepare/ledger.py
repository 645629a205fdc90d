"""The ledger of a corpus: text read = text kept + text dropped, by reason; otherwise the build stops.

Documents and bytes are counted from the file to the training data, tokens from tokenisation on. Cleaning also removes
characters inside documents. ``trimmed_bytes`` counts these bytes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ropewalk.core.columns import pad_columns
from ropewalk.core.quantity import format_amount, format_bytes, format_count
from ropewalk.core.translate import keep

_MUCH_OF_SHARE = 0.8
"""A share of tasks below this part of the one that was asked for is told."""


@dataclass(slots=True)
class Amount:
    """An amount of text."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    passages: int = 0
    """Passages cut from documents that are otherwise kept."""

    def add(self, *, bytes: int, documents: int = 1, tokens: int = 0, passages: int = 0) -> None:
        self.documents += documents
        self.bytes += bytes
        self.tokens += tokens
        self.passages += passages

    def take(self, other: "Amount") -> None:
        """Add another amount to this one."""
        self.add(documents=other.documents, bytes=other.bytes, tokens=other.tokens, passages=other.passages)

    def to_json(self) -> dict[str, int]:
        passages = {"passages": self.passages} if self.passages else {}
        return {"documents": self.documents, "bytes": self.bytes, "tokens": self.tokens, **passages}


@dataclass(slots=True)
class SourceLedger:
    """The amounts of one source: from the file to the store (``stored``), then to training or held-out text."""

    read: Amount = field(default_factory=Amount)
    dropped: defaultdict[str, Amount] = field(default_factory=lambda: defaultdict(Amount))
    trimmed_bytes: int = 0
    stored: Amount = field(default_factory=Amount)
    train: Amount = field(default_factory=Amount)
    held_out: Amount = field(default_factory=Amount)
    masked_answers: int = 0
    """Stored documents in whose answers (which are trained on) PII was masked."""

    def take(self, other: "SourceLedger") -> None:
        """Add the ledger of another part of the same source to this one."""
        self.read.take(other.read)
        self.stored.take(other.stored)
        self.train.take(other.train)
        self.held_out.take(other.held_out)
        self.trimmed_bytes += other.trimmed_bytes
        self.masked_answers += other.masked_answers
        for reason, amount in other.dropped.items():
            self.dropped[reason].take(amount)

    def check_store(self) -> None:
        """Assert that all text lost by reading and cleaning is recorded."""
        lost = [amount for amount in self.dropped.values() if amount.tokens == 0]
        assert self.read.documents == self.stored.documents + sum(amount.documents for amount in lost)
        assert self.read.bytes == self.stored.bytes + self.trimmed_bytes + sum(amount.bytes for amount in lost)

    def check(self) -> None:
        """Assert the whole balance: read = train + held out + dropped + trimmed; stored tokens = the first three."""
        parts = [self.train, self.held_out, *self.dropped.values()]
        assert self.read.documents == sum(part.documents for part in parts)
        assert self.read.bytes == self.trimmed_bytes + sum(part.bytes for part in parts)
        assert self.stored.tokens == sum(part.tokens for part in parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "read": self.read.to_json(),
            "dropped": {reason: amount.to_json() for reason, amount in sorted(self.dropped.items())},
            "trimmed_bytes": self.trimmed_bytes,
            "stored": self.stored.to_json(),
            "train": self.train.to_json(),
            "held_out": self.held_out.to_json(),
            "masked_answers": self.masked_answers,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "SourceLedger":
        """The inverse of ``to_json``."""
        ledger = cls(
            read=Amount(**entry["read"]),
            trimmed_bytes=entry["trimmed_bytes"],
            stored=Amount(**entry["stored"]),
            train=Amount(**entry["train"]),
            held_out=Amount(**entry["held_out"]),
            masked_answers=entry.get("masked_answers", 0),
        )
        ledger.dropped.update({reason: Amount(**amount) for reason, amount in entry["dropped"].items()})
        return ledger


def format_ledger(ledger: Mapping[str, Mapping[str, Any]]) -> str:
    """The ledger as text: a line for each source and for each reason to drop text."""
    lines = [f"{'source':24}{'documents':>12}{'bytes':>12}{'tokens':>10}"]
    for name, entry in ledger.items():
        lines.append(_line(keep(pad_columns(name, 24)), entry["read"]))
        lines += [_line(f"  - {reason}", amount) for reason, amount in entry["dropped"].items()]
        if entry["trimmed_bytes"]:
            lines.append(_line("  - trimmed", {"documents": 0, "bytes": entry["trimmed_bytes"], "tokens": 0}))
        if entry["masked_answers"]:
            lines.append(f"{'  answers with masks':24}{entry['masked_answers']:>12}")
        lines += [_line("  = train", entry["train"]), _line("  = held out", entry["held_out"])]
        lines += _tell_joins(entry["joins"]) if "joins" in entry else ()
        lines += [f"  not read: {each['files']:,} {each['sort']} ({each['why']})" for each in entry.get("not_read", ())]
    return "\n".join(lines)


def _tell_joins(joins: Mapping[str, Any]) -> Iterator[str]:
    """What the joins of a source made of its documents."""
    asked = joins.get("asked", ())
    if "fill_in_middle" in asked and not joins["train"]["filled"]:
        yield "  no text has its middle at the end: rate, most_tokens or the texts allow none"
    if "tasks" in asked and not joins["train"]["tasks"]:
        yield "  no task behind any document: from_tokens, most_tokens, the share, the language or the texts allow none"
    for split in ("train", "held_out"):
        made = joins[split]
        name = split.replace("_", " ")
        if made["filled"]:
            yield f"  the middle stands at the end: {format_count(made['filled'], 'text')}"
        if made["tasks"]:
            share = made["task_tokens"] / made["tokens_out"]
            yield f"  {format_count(made['tasks'], 'task')} behind documents: {share:.2%} of the tokens"
            if share < _MUCH_OF_SHARE * (wanted := joins.get("task_share", 0.0)):
                yield (
                    f"  share asks for {wanted:.2%}: `documents`, from_tokens, most_tokens, the languages or the texts "
                    "allow no more"
                )
        if made["parts"] != made["documents"]:
            yield (
                f"  joined ({name}): {format_count(made['parts'], 'part')} into "
                f"{format_count(made['documents'], 'document')}, "
                f"{made['alone']:,} of them alone; +{format_count(made['added_tokens'], 'token')} between, "
                f"-{format_count(made['border_tokens'], 'border')}"
            )
        elif "join" in asked and made["parts"]:
            yield f"  not joined ({name}): {format_count(made['parts'], 'part')}, each in a document of its own"
        if made["cut"]:
            yield f"  {format_count(made['cut'], 'text')} cut, with chunks of other texts between"
        if made["continued"]:
            yield (
                f"  {format_count(made['continued'], 'join')} continued in another document, as longer than most_tokens"
            )
    if written := joins.get("written"):
        told = ", ".join(f"{count:,} {reason}" for reason, count in written.items() if reason != "requests")
        yield f"  questions that a model wrote ({format_count(written['requests'], 'request')}): {told}"
    if joins["in_circle"]:
        circle = format_count(joins["in_circle"], "document")
        yield f"  {circle} in a circle of imports or answers, read by path or order"
    if lost := joins.get("unanswerable"):
        yield f"  {format_count(lost, 'document')} in answer to an id that is not there, each as the begin of a thread"


def _line(name: str, amount: Mapping[str, int]) -> str:
    tokens = format_amount(amount["tokens"]) if amount["tokens"] else ""
    count = f"{amount['passages']:,} cut" if amount.get("passages") else amount["documents"] or ""
    return f"{name:24}{count:>12}{format_bytes(amount['bytes']):>12}{tokens:>10}"
