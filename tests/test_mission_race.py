"""What benchmarks say that a side did is what it did, and a ratio is one of turns that both sides ran."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from programs import BENCHMARKS, load_program
from ropewalk.parallel.launch import run_ranks

LENGTHS, RANKS, HEADS, KV_HEADS, WIDTH = (8, 24, 4, 28), 2, 4, 2, 16


def observe_zigzag() -> tuple[dict[str, int], float, float, float]:
    """What the document-true ring does in float32, forward and backward."""
    import sys

    sys.path.insert(0, str(BENCHMARKS))
    from observe import observe
    from zigzag_ring import ZigzagRing, own_zigzag_rows

    document = np.repeat(np.arange(len(LENGTHS)), LENGTHS)[None].astype(np.int32)
    rows = len(own_zigzag_rows(document, ranks=RANKS, rank=dist.get_rank()))
    ring = ZigzagRing(document, dist.group.WORLD)
    leaves = [torch.randn(1, heads, rows, WIDTH, requires_grad=True) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    _, seen = observe(lambda: ring.attend(*leaves, scale=0.25).sum().backward(), heads=HEADS)
    return seen.kernels, seen.pairs, seen.balance, seen.sent_bytes


def test_pairs_kernels_and_bytes_are_those_of_the_closed_form() -> None:
    """Bytes: all keys and values once forward and once backward, and their float32 gradients one hop more."""
    kernels, pairs, balance, sent = run_ranks(observe_zigzag, RANKS)[0]
    assert kernels == {"_scaled_dot_product_flash_attention_for_cpu": 2 * len(LENGTHS)}
    assert pairs == sum(each * (each + 1) / 2 for each in LENGTHS) and balance == 1
    keys = 2 * KV_HEADS * WIDTH * sum(LENGTHS) // RANKS * 4
    assert sent == 4 * keys


def test_turns_are_kept_and_only_common_ones_make_a_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = load_program("kept_turns", monkeypatch)
    monkeypatch.setattr(program.dist, "get_rank", lambda: 0)
    path = tmp_path / "turns.json"
    race = program.Race("a case", path)
    race.turns += [{"pack": [2.0, 1.0], "zigzag": [3.0, 1.0]}, {"pack": [100.0, 50.0]}]
    race.write()
    program.Race("another case", path).write()
    again = program.Race("a case", path)
    again.turns.append({"pack": [4.0, 1.0], "zigzag": [10.0, 2.0], "load": 9.0})
    found = again.compare("pack", "zigzag")
    assert (found["ours"], found["paired_ratio"], found["processor_ratio"], found["turns"]) == (3.0, 2.0, 1.5, 2)
    assert again.compare("pack", "one") is None


def test_a_peer_that_cannot_run_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    find = load_program("ringmaster_peer", monkeypatch).find_obstacle
    given = {"ranks": 2, "kv_heads": 2, "tokens": 4096}
    assert "CUDA" in find("zigzag", packed=False, **given) and "four ranks" in find("usp", packed=True, **given)
    assert find("ulysses", packed=True, **given) == "" and "cut over 4" in find(
        "ulysses", packed=False, **given | {"ranks": 4}
    )
    assert "GiB" in find("ulysses", packed=True, **given | {"tokens": 1 << 17})
