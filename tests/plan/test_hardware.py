"""Machines: the known ones are complete, this one can be measured."""

from pathlib import Path

from ropewalk.plan.hardware import KNOWN, find_machine, measure_cpu


def test_known_machines_name_their_source() -> None:
    for name, machine in KNOWN.items():
        assert machine.name == name
        assert machine.source
        assert 0 < machine.attention_backward_flops <= machine.attention_forward_flops < machine.matmul_flops


def test_this_machine_is_shared_by_its_ranks() -> None:
    one, two = measure_cpu(), measure_cpu(ranks=2)
    assert one.matmul_flops > 1e9, "any CPU of this century"
    assert two.memory_bytes == one.memory_bytes / 2
    assert "2 ranks" in two.source


def test_a_gpu_is_known_by_its_driver(tmp_path: Path) -> None:
    assert find_machine(driver=tmp_path).name == "cpu"
    (tmp_path / "0000:01:00.0").mkdir()
    information = tmp_path / "0000:01:00.0" / "information"
    information.write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 7\n")
    assert find_machine(driver=tmp_path) == KNOWN["h100"]
    information.write_text("Model: \t\t NVIDIA Something Else\n")
    assert find_machine(driver=tmp_path).name == "cpu"
