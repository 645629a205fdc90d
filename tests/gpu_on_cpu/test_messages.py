"""Messages between ranks keep the rules of NCCL: those of a whole training, and those of each exchange of keys."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import checked_collectives
from attention_cases import EXCHANGES, PACKS, Case, attend_shares
from checked_collectives import CheckedCollectives, check_collectives, check_pairs
from ropewalk.parallel.launch import RankError, run_ranks
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe


@pytest.mark.parametrize(
    "parallel",
    [
        {"ranks": 2, "context_parallel": 2, "exchange": "ring", "recompute": "full"},
        {"ranks": 4, "context_parallel": 2, "replicas": 2, "recompute": "save_attention"},
    ],
    ids=["2 ranks", "4 ranks"],
)
def test_a_training_keeps_the_rules(prepared: tuple[Path, Path], tmp_path: Path, parallel: dict[str, Any]) -> None:
    """Start, steps, averages, checkpoints from the saver's thread, the end."""
    run = tmp_path / "run"
    (run / "stages" / "0").mkdir(parents=True)
    (run / "stages" / "0" / "extended").symlink_to(prepared[0] / "stages" / "0" / "extended")
    recipe = make_recipe(micro_batch_size=1, tokens=3 * 4 * 64, checkpoint_steps=2, log_steps=2, parallel=parallel)
    with check_collectives(tmp_path) as checked:

        def on_rank() -> Any:
            assert train_stage(recipe, stage=0, run=run, corpus=prepared[1]) == "limit"
            return checked.counts, checked.threads, checked.finish()

        found = run_ranks(on_rank, parallel["ranks"], threads=1)
    check_pairs([pairs for *_, pairs in found])
    for counts, threads, pairs in found:
        kinds = {name.split()[1] for name in counts}
        assert kinds >= {"_allgather_base_", "_reduce_scatter_base_", "allreduce_"}, "sharding, sums"
        assert ("send" in kinds) == ("exchange" in parallel) == bool(pairs)
        assert len(threads) > 1, "the saver speaks too"


def test_each_exchange_keeps_the_rules(tmp_path: Path) -> None:
    """Over three ranks, with documents that cross cuts, ranks without a row to send, and padding."""
    cases = [
        Case(document, layout, exchange, torch.float32)
        for document in PACKS.values()
        for layout in ("contiguous", "zigzag")
        for exchange in EXCHANGES
    ]
    with check_collectives(tmp_path) as checked:
        found = run_ranks(lambda: (attend_shares(cases), checked.finish())[1], 3, threads=1)
    check_pairs(found)


def swap_groups(rank: int) -> None:
    groups = [dist.new_group([0, 1]) for _ in range(2)]
    for group in groups if rank else reversed(groups):
        dist.all_reduce(torch.ones(2), group=group)


FAULTS: dict[str, tuple[Callable[[int], Any], str]] = {
    "order": (
        lambda rank: dist.all_reduce(torch.ones(4)) if rank else dist.broadcast(torch.ones(4), src=0),
        "rank 1 does allreduce_ of .* rank 0 does broadcast_",
    ),
    "size": (lambda rank: dist.all_reduce(torch.ones(4 + rank)), r"rank 1 does allreduce_ of \[5\]"),
    "type": (
        lambda rank: dist.all_reduce(torch.ones(4, dtype=torch.float64 if rank else None)),
        "rank 1 does .*float64",
    ),
    "splits": (
        lambda rank: dist.all_to_all_single(torch.ones(3, 2), torch.ones(4, 2), [1, 2], [2, 2]),
        "rank 0 sends 4 numbers to rank 0, which expects 2",
    ),
    "absence": (lambda rank: rank or dist.all_reduce(torch.ones(4)), "rank 1 of group 0 did not come to message"),
    "groups": (swap_groups, "did not come to message 0"),
    "empty": (lambda rank: dist.all_reduce(torch.ones(0)), "an empty message"),
    "gaps": (lambda rank: dist.broadcast(torch.ones(4, 4)[:, 0], src=0), "has gaps"),
    "carried": (lambda rank: dist.all_reduce(torch.ones(4, dtype=torch.int16)), "does not carry"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gloo carries most of these without a word, or waits."""
    monkeypatch.setattr(checked_collectives, "PATIENCE", timedelta(seconds=2))
    act, words = FAULTS[fault]
    with check_collectives(tmp_path), pytest.raises(RankError, match=words):
        run_ranks(lambda: act(dist.get_rank()), 2, threads=1)


def test_a_message_that_nobody_receives_is_named(tmp_path: Path) -> None:
    def act(checked: CheckedCollectives) -> Any:
        if dist.get_rank() == 0:
            dist.isend(torch.ones(3), 1)
        return checked.finish()

    with check_collectives(tmp_path) as checked:
        found = run_ranks(act, 2, checked, threads=1)
    with pytest.raises(checked_collectives.CollectiveError, match=r"0 to 1: sent \[\[3\]\], received None"):
        check_pairs(found)
