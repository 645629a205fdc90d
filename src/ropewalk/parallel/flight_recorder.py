"""Find the rank that a message waits for, from torch's flight recorders.

On a GPU the host runs ahead of the device, so the position in the code does not tell which rank hangs. The recorders
count the messages of each group of ranks in the order in which they were begun. A rank that has begun fewer messages of
a group than the others is the one that they wait for. There are two recorders: for gloo and for NCCL. They are read in
JSON; torch's other format is a pickle.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch._C import _distributed_c10d

SAVING = "checkpoint"
"""The description of the group whose messages are not of the step: a rank may be late there without harm."""
_DUMPS = ("_dump_fr_trace_json", "_dump_nccl_trace_json")
_SAME_SIZES = ("all_reduce", "all_gather", "_all_gather_base", "_allgather_base", "reduce_scatter")
"""Messages that must have the same sizes on all ranks."""

Groups = Mapping[str, Mapping[str, Any]]
"""By group of ranks: ``ranks`` (those known to belong to it, or null), ``begun`` (the number of its last message that
was begun) and ``open`` (the number, kind and sizes of its first message that has not ended, or null)."""


def read_recorders() -> dict[str, Any]:
    """Return what this rank's recorders hold, as ``Groups``, ready for JSON. It reads no device and sends nothing."""
    found: dict[str, Any] = {}
    for name in _DUMPS:
        dump = getattr(_distributed_c10d, name, None)
        if dump is not None:
            found |= condense(json.loads(dump() or "{}"))
    return found


def condense(dump: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``Groups`` of one recorder's dump, as torch writes it."""
    found: dict[str, Any] = {}
    members = {entry["name"]: entry["ranks"] for entry in dump.get("pg_config", {}).values()}
    for entry in dump.get("entries", ()):
        number, (name, description) = entry["collective_seq_id"], entry["process_group"]
        if entry["is_p2p"] or description == SAVING:
            continue
        backend, _, kind = entry["profiling_name"].partition(":")
        ranks = json.loads(members[name]) if name and name in members else None
        group = found.setdefault(f"{backend} {name} ({description})", {"ranks": ranks, "begun": 0, "open": None})
        group["begun"] = max(group["begun"], number)
        ended = entry["retired"] or entry["state"] == "completed"
        if not ended and (group["open"] is None or number < group["open"][0]):
            group["open"] = [number, kind, entry["input_sizes"]]
    return found


def find_missing(recorded: Mapping[int, Groups]) -> tuple[list[int], list[str]]:
    """Return the ranks that others wait for while they wait for nobody, and a line for each group that is stuck."""
    missing: set[int] = set()
    lines: list[str] = []
    for group in sorted({name for groups in recorded.values() for name in groups}):
        absent, words = _look_at(group, {rank: groups[group] for rank, groups in recorded.items() if group in groups})
        missing |= absent & recorded.keys()
        lines += words
    waiting = {rank for rank, groups in recorded.items() if any(entry["open"] for entry in groups.values())}
    return sorted(missing - waiting or missing), lines


def _look_at(group: str, entries: Mapping[int, Mapping[str, Any]]) -> tuple[set[int], list[str]]:
    waiting = {rank: entry["open"] for rank, entry in entries.items() if entry["open"]}
    if not waiting:
        return set(), []
    number = min(first[0] for first in waiting.values())
    there = [rank for rank, first in waiting.items() if first[0] == number]
    members = next((entry["ranks"] for entry in entries.values() if entry["ranks"]), list(entries))
    absent = {rank for rank in members if rank not in entries or entries[rank]["begun"] < number}
    what = f"message {number} of group {group}"
    kinds = _sort_kinds({rank: waiting[rank] for rank in there})
    if len(kinds) > 1:
        each = "; ".join(f"{_list(ranks)} in {kind}" for kind, ranks in kinds.items())
        return absent, [f"  ranks disagree in {what}: {each}"]
    (kind,) = kinds
    if absent:
        wait = f"{_list(there)} {'waits' if len(there) == 1 else 'wait'}"
        return absent, [f"  {_count(sorted(absent))} not begun {what}, in which {wait}: {kind}"]
    return set(), [f"  all have begun {what} and it does not end: {kind}"]


def _sort_kinds(first: Mapping[int, Sequence[Any]]) -> dict[str, list[int]]:
    """The ranks of each kind of message; one kind where all agree."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for rank, (_, kind, sizes) in sorted(first.items()):
        kinds.setdefault((kind, json.dumps(sizes) if kind in _SAME_SIZES else ""), []).append(rank)
    return {f"{kind} of sizes {json.dumps(first[ranks[0]][2])}": ranks for (kind, _), ranks in kinds.items()}


def _list(ranks: Sequence[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _count(ranks: Sequence[int]) -> str:
    return f"{_list(ranks)} {'has' if len(ranks) == 1 else 'have'}"
