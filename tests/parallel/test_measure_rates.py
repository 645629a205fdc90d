"""Rates are finite and positive, and energy is what the counters of the processors add up to."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ropewalk.parallel import measure_rates
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.measure_rates import EnergyMeter, measure_rig, time_tries
from ropewalk.parallel.mesh import make_mesh
from ropewalk.partition.partition import Partition, partition_tokens
from ropewalk.plan.receipt import Rig

CPU = torch.device("cpu")


def write_counters(folder: Path, *microjoules: int) -> None:
    for number, value in enumerate(microjoules):
        (folder / f"intel-rapl:{number}").mkdir(exist_ok=True)
        (folder / f"intel-rapl:{number}" / "energy_uj").write_text(f"{value}\n")


def test_energy_is_summed_over_processors_and_told_by_one_rank(tmp_path: Path) -> None:
    write_counters(tmp_path, 1_000_000, 2_000_000)
    meter = EnergyMeter(CPU, first=True, powercap=tmp_path)
    other = EnergyMeter(CPU, first=False, powercap=tmp_path)
    write_counters(tmp_path, 2_500_000, 4_000_000)
    assert meter.take() == 3.5 and math.isnan(other.take())
    assert meter.take() == 0 and meter.power_watts is None
    write_counters(tmp_path, 1, 1)  # the counters began again
    assert math.isnan(meter.take())


def test_no_counter_is_no_figure(tmp_path: Path) -> None:
    assert math.isnan(EnergyMeter(CPU, first=True, powercap=tmp_path).take())


def measure_all() -> Rig:
    return measure_rig(make_mesh(2, 2), "float32", heads=4, kv_heads=2, head_dim=16)


def test_two_ranks_measure_their_rates() -> None:
    first, second = run_ranks(measure_all, 2)
    for rig in (first, second):
        assert rig.products_flops > 1e8 and rig.attention_flops > 1e7
        assert rig.link_bytes_per_second is not None and rig.link_bytes_per_second > 1e6
        assert (rig.kind, rig.ranks, rig.context_ranks, rig.peak_source) == ("cpu", 2, 2, "measured")
    assert first.device and first.peak_flops == second.peak_flops
    assert first.peak_flops == pytest.approx(first.products_flops + second.products_flops), "each rank measures once"


def test_attention_is_measured_near_the_length_of_the_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel skips hidden keys in blocks of 512: a rate from 512 tokens alone counts half of what was computed."""
    lengths: list[int] = []

    def note(document: np.ndarray, ranks: int) -> Partition:
        lengths.append(document.size)
        return partition_tokens(document, ranks=ranks)

    monkeypatch.setattr(measure_rates, "partition_tokens", note)
    for context in (64, 1024, 1 << 20, None):
        rate = measure_rates.measure_attention(
            "float32", CPU, heads=4, kv_heads=2, head_dim=8, context_tokens=context, tries=1
        )
        assert rate > 0
    assert lengths == [512, 1024, 2048, 2048]


def test_attention_is_measured_with_a_key_head_for_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backward gives whole heads to threads: one head on two threads was read as 0.7 of the rate of two heads."""
    measured: list[tuple[int, int]] = []
    real = measure_rates.attend

    def note(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        measured.append((query.shape[1], key.shape[1]))
        return real(query, key, value, **settings)

    monkeypatch.setattr(measure_rates, "attend", note)
    for threads in (1, 2, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        measure_rates.measure_attention("float32", CPU, heads=8, kv_heads=4, head_dim=8, context_tokens=64, tries=1)
    assert measured == [(2, 1), (4, 2), (8, 4)]


def test_a_wait_for_another_rank_is_not_in_the_link_of_a_calibration() -> None:
    """By the clock the sleep counts, by processor time it does not; so a busy machine keeps its rate."""
    by_clock, by_processor = (
        min(time_tries(lambda: time.sleep(0.05), tries=2, clock=clock))
        for clock in (time.perf_counter, time.process_time)
    )
    assert by_clock >= 0.05 > 10 * by_processor
