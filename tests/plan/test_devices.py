"""The table of devices: names of drivers and recipes lead to the right row, and a recipe's own figures are taken."""

import pytest
from pydantic import ValidationError

from planned_recipe import make_planned
from ropewalk.core.error import UserError
from ropewalk.plan.devices import find_device, find_peak_flops, read_devices, recognise_device
from ropewalk.plan.hardware import KNOWN, make_machine
from ropewalk.plan.planned_machine import choose_machine, describe_hardware
from ropewalk.recipe.hardware_keys import Hardware, read_hardware
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape

CARDS = {
    "NVIDIA H100 80GB HBM3": 80, "NVIDIA H100 NVL": 94, "NVIDIA H100 PCIe": 80, "NVIDIA H200": 141,
    "NVIDIA GH200 480GB": 96, "NVIDIA H20": 96, "NVIDIA H800": 80, "NVIDIA A100-SXM4-40GB": 40,
    "NVIDIA A100-PCIE-40GB": 40, "NVIDIA A100-SXM4-80GB": 80, "NVIDIA A800-SXM4-80GB": 80,
    "NVIDIA GeForce RTX 4090": 24, "NVIDIA GeForce RTX 3090": 24, "NVIDIA L40S": 48, "NVIDIA A10G": 24,
    "NVIDIA B200": 180, "NVIDIA GB200": 186, "NVIDIA RTX 6000 Ada Generation": 48, "Tesla V100-SXM2-32GB": 32,
}  # fmt: skip
"""Names as drivers show them, and the GiB of the card."""


def test_the_table_is_complete() -> None:
    rows = read_devices()
    assert len(rows) >= 25 and len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.source and row.node_devices >= 1
        numbers = [value for value in row if isinstance(value, float)]
        assert len(numbers) >= 8 and all(value > 0 for value in numbers)


@pytest.mark.parametrize(("name", "gib"), CARDS.items())
def test_a_drivers_name_gives_the_memory_of_its_card(name: str, gib: float) -> None:
    device = recognise_device(name)
    assert device is not None and device.memory_mib / 1024 == pytest.approx(gib, rel=0.03)
    assert find_peak_flops(name) == device.bf16_tflops * 1e12


def test_near_names_are_told_apart() -> None:
    names = ("NVIDIA L4", "NVIDIA L40", "NVIDIA A10", "NVIDIA A100X", "NVIDIA GeForce RTX 4090 Laptop GPU")
    found = [recognise_device(name) for name in names]
    assert [device and device.name for device in found] == ["l4", "l40", "a10", None, None]
    assert find_peak_flops("NVIDIA A100X") == 0


def test_a_recipes_hardware() -> None:
    machine = describe_hardware(read_hardware("h100-sxm x 4"), ranks=8)
    assert machine.name == "h100-sxm" and machine.node_ranks == 4
    assert machine.host_bytes == KNOWN["h100-sxm"].host_bytes * 8 / 4, "four ranks share a node's memory"
    assert read_hardware("RTX 4090") == Hardware(device="RTX 4090")
    assert describe_hardware(read_hardware("RTX 4090"), ranks=1).memory_bytes == 24 * 2**30
    own = describe_hardware(read_hardware(Hardware.model_validate({"memory": "40Gi", "flops": "100T"})), ranks=1)
    assert (own.name, own.memory_bytes, own.matmul_flops) == ("hardware", 40 * 2**30, 100e12)
    mended = Hardware.model_validate(
        {"device": "a100", "memory": "64Gi", "host_memory": "1T", "host_optimizer": "1.2B", "price": 2.5}
    )
    machine = describe_hardware(mended, ranks=8)
    assert (machine.memory_bytes, machine.host_bytes, machine.dollars_per_hour) == (64 * 2**30, 1e12 / 8, 2.5)
    assert machine.host_parameters_per_second == 1.2e9 != KNOWN["a100-sxm-80"].host_parameters_per_second
    assert machine.matmul_flops == KNOWN["a100-sxm-80"].matmul_flops


def test_what_is_wrong_with_hardware_is_said() -> None:
    with pytest.raises(UserError, match=r"'h100-smx' is no device.*(\n.*)*did you mean h100-sxm"):
        find_device("h100-smx")
    with pytest.raises(ValidationError, match="give memory and flops"):
        Hardware.model_validate({"memory": "40Gi"})


def test_float32_is_planned_at_its_own_rate() -> None:
    assert KNOWN["h100-sxm"].float32_share == pytest.approx(67 / 989)


def test_a_recipe_names_the_machine_of_its_plan() -> None:
    recipe, plain = make_planned(hardware="b200 x 8", nodes=2), make_planned()
    shape = ModelShape("LlamaForCausalLM", 64, 4, 2, 16, 128, 1000, True, 512, plain_layers(4, 1e4))
    assert choose_machine(recipe, shape).name == "b200"
    assert plain.digest == recipe.digest
    assert make_machine(find_device("b200")).generation == "blackwell"
