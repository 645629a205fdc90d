"""Machines: the known ones are complete, this one can be measured."""

import math
from dataclasses import replace

import pytest

from ropewalk.plan.gpus import Gpu
from ropewalk.plan.hardware import KNOWN, describe_gpu_rates, find_machine, measure_cpu


def test_known_machines_name_their_source() -> None:
    for name, machine in KNOWN.items():
        assert machine.name == name
        assert machine.source and machine.node_ranks and 0 < machine.network_bytes_per_second < math.inf
        assert 0 < machine.attention_backward_flops <= machine.attention_forward_flops < machine.matmul_flops


def test_this_machine_is_shared_by_its_ranks() -> None:
    one, two = measure_cpu(), measure_cpu(ranks=2)
    assert one.matmul_flops > 1e9, "any CPU of this century"
    assert two.memory_bytes == one.memory_bytes / 2
    assert "2 ranks" in two.source
    assert two.matmul_flops == one.matmul_flops / 2, "it is measured once in a process"


def test_a_gpu_is_known_by_the_name_that_its_driver_shows() -> None:
    assert find_machine(gpus=()).name == "cpu"
    found = find_machine(gpus=[Gpu("NVIDIA H100 80GB HBM3")])
    assert (
        replace(found, host_bytes=1.0) == replace(KNOWN["h100-sxm"], host_bytes=1.0) and 0 < found.host_bytes < math.inf
    )
    small = Gpu("NVIDIA A100-SXM4-40GB", 40 * 2**30, (8, 0), 108)
    found = replace(find_machine(gpus=[small]), host_bytes=1.0)
    assert found == replace(KNOWN["a100-sxm-40"], host_bytes=1.0)
    slice_of_it = replace(small, memory_bytes=20 * 2**30)
    assert find_machine(gpus=[slice_of_it]).memory_bytes == 20 * 2**30, "its own memory"


@pytest.mark.parametrize(
    ("gpu", "teraflops"),
    [
        (Gpu("unlisted like an L-4", 24 * 2**30, (8, 9), 58), 121),
        (Gpu("unlisted like an L-40S", 48 * 2**30, (8, 9), 142), 362),
        (Gpu("as a GeForce RTX 4090 Laptop GPU", 24 * 2**30, (8, 9), 128), 165),
        (Gpu("as a B-200", 180 * 2**30, (10, 0), 148), 2250),
        (Gpu("as a GeForce of 5090", 32 * 2**30, (12, 0), 170), 210),
        (Gpu("as a V-100", 16 * 2**30, (7, 0), 80), 125),
    ],
)
def test_an_unknown_gpu_is_planned_as_a_gpu_and_said_to_be(gpu: Gpu, teraflops: float) -> None:
    """The estimate is 0.4 to 0.8 of the data sheet's rate, as what a step sustains is."""
    machine = find_machine(gpus=[gpu])
    assert machine.name == gpu.name and machine.memory_bytes == gpu.memory_bytes and machine.generic
    assert 0.4 < machine.matmul_flops / (teraflops * 1e12) < 0.8
    assert machine.attention_backward_flops < machine.attention_forward_flops < machine.matmul_flops
    assert f"{gpu.name} is not in the table" in machine.source and "generic rates" in machine.source
    assert "assumed" not in machine.source


def test_what_a_driver_does_not_tell_is_said_to_be_assumed() -> None:
    machine = find_machine(gpus=[Gpu("NVIDIA Something Else")])
    assert machine.memory_bytes == 16 * 2**30
    assert "memory and capability and size, which is assumed" in machine.source


def test_the_rates_of_the_table_are_near_the_generic_ones() -> None:
    for name, gpu in {"h100-sxm": Gpu("x", None, (9, 0), 132), "a100-sxm-80": Gpu("x", None, (8, 0), 108)}.items():
        assert 0.8 < describe_gpu_rates(gpu).matmul_flops / KNOWN[name].matmul_flops < 1.2
