"""The flight recorders: torch's own dump is read, and of several ranks' messages the missing rank follows."""

import json
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C import _distributed_c10d

from ropewalk.parallel.flight_recorder import SAVING, condense, find_missing, read_recorders
from ropewalk.parallel.launch import run_ranks

GROUP = "nccl 0 (default_pg)"


def record(number: int, kind: str = "nccl:all_reduce", **more: Any) -> dict[str, Any]:
    """An entry as NCCL's recorder writes it."""
    entry = {
        "collective_seq_id": number,
        "p2p_seq_id": 0,
        "input_sizes": [[4]],
        "is_p2p": False,
        "process_group": ["0", "default_pg"],
        "profiling_name": kind,
        "retired": False,
        "state": "scheduled",
    }
    return {**entry, **more}


def test_the_real_recorder_is_on_and_is_read() -> None:
    def send() -> Any:
        dist.all_reduce(torch.zeros(3))
        group = dist.new_group(backend="gloo", group_desc=SAVING)
        dist.all_reduce(torch.zeros(1), group=group)
        return read_recorders()

    for found in run_ranks(send, 2):
        assert found["gloo 0 (default_pg)"]["begun"] >= 2 and found["gloo 0 (default_pg)"]["open"] is None
        assert not any(SAVING in name for name in found), "a save is not part of the step"
        assert json.loads(json.dumps(found)) == found


def test_both_recorders_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    dump = json.dumps({"entries": [record(7)], "pg_config": {"0": {"name": "0", "ranks": "[0, 1]"}}}).encode()
    monkeypatch.setattr(_distributed_c10d, "_dump_fr_trace_json", lambda: b"{}")
    monkeypatch.setattr(_distributed_c10d, "_dump_nccl_trace_json", lambda: dump, raising=False)
    assert read_recorders() == {GROUP: {"ranks": [0, 1], "begun": 7, "open": [7, "all_reduce", [[4]]]}}


def test_the_first_message_that_has_not_ended_is_kept() -> None:
    entries = [
        record(3, retired=True, state="scheduled"),
        record(4, state="completed"),
        record(5, state="started"),
        record(6),
        record(9, "nccl:send 0->1", is_p2p=True),
    ]
    found = condense({"entries": entries})
    assert found == {GROUP: {"ranks": None, "begun": 6, "open": [5, "all_reduce", [[4]]]}}
    assert condense({"version": "2.10"}) == {}


def at(begun: int, first: Any = None, ranks: Any = None) -> dict[str, Any]:
    return {"ranks": ranks, "begun": begun, "open": first}


def test_a_rank_that_waits_elsewhere_is_not_the_cause() -> None:
    """Rank 3 hangs: rank 2 waits for it in their group, and ranks 0 and 1 wait for both in the group of all."""
    gather, reduce = [8, "all_gather", [[2]]], [5, "all_reduce", [[4]]]
    roll = {
        0: {GROUP: at(5, reduce)},
        1: {GROUP: at(5, reduce)},
        2: {GROUP: at(4), "nccl 2 (context)": at(8, gather)},
        3: {GROUP: at(4), "nccl 2 (context)": at(7)},
    }
    missing, lines = find_missing(roll)
    assert missing == [3]
    assert lines == [
        f"  ranks 2, 3 have not begun message 5 of group {GROUP}, in which ranks 0, 1 wait: all_reduce of sizes [[4]]",
        "  rank 3 has not begun message 8 of group nccl 2 (context), in which rank 2 waits: all_gather of sizes [[2]]",
    ]


def test_a_rank_without_any_message_of_a_group_is_missing_there() -> None:
    roll = {0: {GROUP: at(1, [1, "broadcast", [[4]]], ranks=[0, 1])}, 1: {}}
    assert find_missing(roll)[0] == [1]


def test_ranks_that_disagree_are_told() -> None:
    roll = {0: {GROUP: at(5, [5, "all_reduce", [[4]]])}, 1: {GROUP: at(5, [5, "broadcast", [[4]]])}}
    missing, lines = find_missing(roll)
    assert missing == [] and lines == [
        f"  ranks disagree in message 5 of group {GROUP}: rank 0 in all_reduce of sizes [[4]]; "
        "rank 1 in broadcast of sizes [[4]]"
    ]
    unequal = {rank: {GROUP: at(5, [5, "all_to_all", [[4 + rank]]])} for rank in (0, 1)}
    assert "does not end" in find_missing(unequal)[1][0], "sizes may differ there"
    unequal = {rank: {GROUP: at(5, [5, "all_reduce", [[4 + rank]]])} for rank in (0, 1)}
    assert "disagree" in find_missing(unequal)[1][0]


def test_messages_that_all_have_begun_name_nobody() -> None:
    roll = {rank: {GROUP: at(6, [5, "all_reduce", [[4]]])} for rank in (0, 1)}
    missing, lines = find_missing(roll)
    assert missing == [] and lines == [
        f"  all have begun message 5 of group {GROUP} and it does not end: all_reduce of sizes [[4]]"
    ]
    assert find_missing({0: {GROUP: at(6)}, 1: {GROUP: at(6)}}) == ([], [])
