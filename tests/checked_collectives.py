"""Hold every message between ranks against the rules of NCCL, while gloo carries it.

gloo forgives what NCCL answers with a hang or with wrong numbers. So before a collective runs, its ranks tell each
other through a file what they are about to do: all issue the same collectives in the same order on the same group, of
one type and fitting sizes, without gaps in memory, and not empty. Ranks that disagree are named. The check stands in
torch's dispatcher, so it sees what FSDP and DTensor send too, from any thread. Messages between two ranks are compared
at the end: each one sent was received, in order.
"""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.library import Library

PATIENCE = timedelta(seconds=30)
_CARRIED = {torch.uint8, torch.int8, torch.bool, torch.int32, torch.int64}
_CARRIED |= {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_COLLECTIVES = ("allreduce_", "allgather_", "_allgather_base_", "_reduce_scatter_base_", "reduce_scatter_")
_COLLECTIVES += ("alltoall_base_", "alltoall_", "broadcast_", "barrier", "gather_", "scatter_", "reduce_")
_COLLECTIVES += ("allgather_into_tensor_coalesced_", "reduce_scatter_tensor_coalesced_", "allreduce_coalesced_")
_PAIRS = ("send", "recv_")

Record = dict[str, Any]


class CollectiveError(AssertionError):
    """Ranks do not agree on a message, or NCCL would not carry it."""


class CheckedCollectives:
    """The messages of this rank so far: ``counts`` by group and operation, ``threads`` that sent any."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: Counter[str] = Counter()
        self._pairs: defaultdict[str, list[Record]] = defaultdict(list)
        self._local = threading.local()
        self.counts: Counter[str] = Counter()
        self.threads: set[str] = set()

    def note(self, name: str, args: tuple[Any, ...]) -> None:
        """Called before a message is sent. Raises CollectiveError on every rank that sees a fault."""
        group = next(dist.ProcessGroup.unbox(each) for each in args if isinstance(each, torch.ScriptObject))
        record = {"operation": name, **_measure(args), "numbers": _read_numbers(name, args)}
        self.counts[f"{group.group_name} {name}"] += 1
        self.threads.add(threading.current_thread().name)
        self._check_alone(record, args, group)
        if name in _PAIRS:
            self._pairs[_name_pair(name, args, group)].append(record)
        else:
            self._compare(record, group)

    def _check_alone(self, record: Record, args: tuple[Any, ...], group: dist.ProcessGroup) -> None:
        tensors = _tensors(args)
        where = f"{record['operation']} on rank {group.rank()} of group {group.group_name}"
        if not all(each.is_contiguous() for each in tensors):
            raise CollectiveError(f"{where}: a tensor has gaps")
        if not all(each.dtype in _CARRIED for each in tensors):
            raise CollectiveError(f"{where}: NCCL does not carry {[each.dtype for each in tensors]}")
        if record["operation"] not in ("alltoall_base_", "alltoall_", "barrier") and not all(map(torch.numel, tensors)):
            raise CollectiveError(f"{where}: an empty message")

    def _compare(self, record: Record, group: dist.ProcessGroup) -> None:
        number = self._numbers[group.group_name]
        self._numbers[group.group_name] += 1
        rank, ranks, store = group.rank(), group.size(), self._store()
        key = f"{group.group_name}/{number}"
        store.set(f"{key}/{rank}", json.dumps(record))
        records = []
        for other in range(ranks):
            try:
                records.append(json.loads(store.get(f"{key}/{other}")))
            except RuntimeError:  # a store's own word for a timeout
                raise CollectiveError(
                    f"rank {other} of group {group.group_name} did not come to message {number}, "
                    f"{record['operation']} on rank {rank}"
                ) from None
        faults = [
            f"rank {other} does {_tell(theirs)}, rank 0 does {_tell(records[0])}"
            for other, theirs in enumerate(records)
            if _must_agree(theirs) != _must_agree(records[0])
        ]
        if record["operation"] == "alltoall_base_":
            faults += _compare_splits(records)
        if faults:
            raise CollectiveError(f"message {number} of group {group.group_name}: {'; '.join(faults)}")

    def finish(self) -> dict[str, list[Record]]:
        """The messages between two ranks, for ``check_pairs``."""
        return dict(self._pairs)

    def _store(self) -> Any:
        """One connection a thread: none waits while another one reads."""
        if not hasattr(self._local, "store"):
            self._local.store = dist.FileStore(str(self._folder / "messages"), -1)
            self._local.store.set_timeout(PATIENCE)
        return self._local.store


@contextmanager
def check_collectives(folder: Path) -> Iterator[CheckedCollectives]:
    """In the block, also in ranks that are forked there, all messages are checked; ``folder`` is the ranks' own."""
    checked = CheckedCollectives(folder)
    library = Library("c10d", "IMPL", "AutogradCPU")
    for name in (*_COLLECTIVES, *_PAIRS):
        library.impl(name, _before(name, checked), with_keyset=True)
    try:
        yield checked
    finally:
        library._destroy()


def check_pairs(of_ranks: list[dict[str, list[Record]]]) -> None:
    """Raise CollectiveError where what one rank sent to another is not what that one received."""
    sent, received = ({}, {})
    for pairs in of_ranks:
        for key, records in pairs.items():
            name, _, pair = key.partition(" ")
            (sent if name == "send" else received)[pair] = [record["sizes"] for record in records]
    for pair in sorted(sent.keys() | received.keys()):
        if sent.get(pair) != received.get(pair):
            raise CollectiveError(f"{pair}: sent {sent.get(pair)}, received {received.get(pair)}")


def _before(name: str, checked: CheckedCollectives) -> Callable[..., Any]:
    operator = getattr(torch.ops.c10d, name).default
    below = torch._C._after_autograd_keyset

    def call(keyset: Any, *args: Any) -> Any:
        checked.note(name, args)
        return operator.redispatch(keyset & below, *args)

    return call


def _measure(args: tuple[Any, ...]) -> Record:
    tensors = _tensors(args)
    return {"sizes": [each.numel() for each in tensors], "types": [str(each.dtype) for each in tensors]}


def _read_numbers(name: str, args: tuple[Any, ...]) -> list[Any]:
    """The parts' rows of an all-to-all, coming and going; the root of what has one."""
    if name == "alltoall_base_":
        return [each for each in args if isinstance(each, list)]
    if name in ("broadcast_", "gather_", "scatter_", "reduce_"):
        return [each for each in args if isinstance(each, int) and not isinstance(each, bool)][:1]
    return []


def _must_agree(record: Record) -> Record:
    if record["operation"] == "alltoall_base_":
        return {"operation": record["operation"], "types": record["types"]}
    if record["operation"] in ("gather_", "scatter_"):
        return {"operation": record["operation"], "types": record["types"][:1], "numbers": record["numbers"]}
    return record


def _compare_splits(records: list[Record]) -> list[str]:
    """What rank i sends to rank j is what rank j expects from it, and parts add up to the whole."""
    sides = []
    for record in records:
        parts = []
        for split, size in zip(record["numbers"], record["sizes"], strict=True):
            split = split or [1] * len(records)
            width = size // max(sum(split), 1)
            parts.append([rows * width for rows in split])
        sides.append(parts)
    return [
        f"rank {source} sends {sides[source][1][target]} numbers to rank {target}, "
        f"which expects {sides[target][0][source]}"
        for source in range(len(records))
        for target in range(len(records))
        if sides[source][1][target] != sides[target][0][source]
    ]


def _tell(record: Record) -> str:
    return f"{record['operation']} of {record['sizes']} {'/'.join(sorted(set(record['types'])))} {record['numbers']}"


def _name_pair(name: str, args: tuple[Any, ...], group: dist.ProcessGroup) -> str:
    peer = next(each for each in args if isinstance(each, int))
    ends = (group.rank(), peer) if name == "send" else (peer, group.rank())
    return f"{name} {group.group_name}: {ends[0]} to {ends[1]}"


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [each for part in value for each in _tensors(part)]
    return []
