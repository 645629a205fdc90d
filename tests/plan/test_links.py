"""Messages cross a node's border over the links that the exchange can use, counted by hand."""

from dataclasses import replace

import pytest

from ropewalk.plan.hardware import KNOWN, measure_cpu
from ropewalk.plan.links import context_seconds, state_seconds

MACHINE = replace(KNOWN["h100-sxm"], link_bytes_per_second=400e9, network_bytes_per_second=50e9, node_ranks=8)
SENT = 400e9


def test_within_a_node_only_its_links_count() -> None:
    assert state_seconds(SENT, 8, MACHINE) == 1.0
    assert all(context_seconds(SENT, 8, exchange, MACHINE) == 1.0 for exchange in ("ring", "heads", "needed_kv"))
    cpu = measure_cpu(ranks=64)
    assert state_seconds(SENT, 64, cpu) == SENT / cpu.link_bytes_per_second, "all ranks of a CPU are on one node"


def test_weights_cross_the_border_over_all_links_of_a_node() -> None:
    assert state_seconds(SENT, 16, MACHINE) == pytest.approx(1.0), "eight links of 50 GB/s are as fast as one of 400"
    slow = replace(MACHINE, network_bytes_per_second=12.5e9)
    assert state_seconds(SENT, 16, slow) == pytest.approx(4.0)
    assert context_seconds(SENT, 16, "all_gather", slow) == pytest.approx(4.0)


def test_a_ring_waits_for_one_link_and_heads_use_each_device_s_own() -> None:
    assert context_seconds(SENT, 16, "ring", MACHINE) == pytest.approx(8.0)
    assert context_seconds(SENT, 16, "heads", MACHINE) == pytest.approx(8.0 * 8 / 15), "8 of 15 others are outside"
    assert context_seconds(SENT, 64, "heads", MACHINE) == pytest.approx(8.0 * 56 / 63)
