"""Where hardware, nodes and ranks of a recipe contradict each other, or the machine that trains, it is told."""

import re
from typing import Any

import pytest

from planned_recipe import make_planned
from ropewalk.core.error import UserError
from ropewalk.plan.hardware import KNOWN, Machine, measure_cpu
from ropewalk.plan.named_hardware import check_hardware, compare_hardware, require_hardware
from ropewalk.plan.planned_machine import describe_hardware
from ropewalk.recipe.hardware_keys import read_hardware
from ropewalk.recipe.parallel import require_even
from ropewalk.recipe.spec import Recipe


def find(ranks: int, machine: Machine | None = None, device: str = "auto", **given: Any) -> list[tuple[str, str, str]]:
    recipe = make_planned(parallel={"ranks": ranks, "device": device}, **given)
    machine = machine or describe_hardware(read_hardware(given["hardware"]), ranks=ranks)
    return [(each.level, each.key, f"{each.message}; {each.fix}") for each in check_hardware(recipe, machine)]


def test_more_ranks_than_devices_are_an_error() -> None:
    ((level, key, message),) = find(32, hardware="h100-sxm x 8", nodes=2)
    assert (level, key) == ("error", "nodes")
    assert message.startswith("32 ranks need 4 nodes of 8 x h100-sxm, not 2; nodes=4, or parallel.ranks=16")


@pytest.mark.parametrize(("ranks", "context"), [(32, 1), (33, 3), (24, 6), (40, 20)])
def test_ranks_that_are_offered_are_accepted(ranks: int, context: int) -> None:
    for nodes in (1, 2):
        recipe = make_planned(
            parallel={"ranks": ranks, "context_parallel": context}, hardware="h100-sxm x 8", nodes=nodes
        )
        machine = describe_hardware(read_hardware("h100-sxm x 8"), ranks=ranks)
        (finding,) = check_hardware(recipe, machine)
        offered = re.search(r"parallel\.ranks=(\d+)", finding.fix)
        assert (offered is None) == (context > 8 * nodes), finding
        if offered is not None:
            data = recipe.to_json()
            data["parallel"]["ranks"] = int(offered[1])
            changed = Recipe.model_validate(data)
            assert [each for each in check_hardware(changed, machine) if each.level == "error"] == [], finding
            require_even(changed.parallel.ranks, context=context, replicas=1)


@pytest.mark.parametrize(
    ("ranks", "given", "key", "said"),
    [
        (8, {"hardware": "h100-sxm x 8", "nodes": 4}, "nodes", "32 devices, of which parallel.ranks=8 uses 8"),
        (1, {"hardware": "a100 x 4"}, "hardware", "4 devices, of which parallel.ranks=1 uses 1"),
        (12, {"hardware": "h100 x 8"}, "hardware", "2 x 8 x h100-sxm are 16 devices"),
        (8, {"nodes": 2, "machine": measure_cpu()}, "nodes", "nodes=2 changes no plan"),
        (8, {"hardware": "h100 x 8", "device": "cpu"}, "hardware", "parallel.device=cpu trains on the CPU"),
    ],
)
def test_what_the_plan_or_the_run_leaves_out_is_a_warning(
    ranks: int, given: dict[str, Any], key: str, said: str
) -> None:
    ((level, found, message),) = find(ranks, **given)
    assert (level, found) == ("warning", key) and said in message


@pytest.mark.parametrize(
    ("ranks", "given"),
    [
        (32, {"hardware": "h100-sxm x 8", "nodes": 4}),
        (2, {"hardware": "h100-sxm"}),  # the usual node has eight, but nobody asked for eight
        (8, {"nodes": 1, "machine": KNOWN["h100-sxm"]}),
        (2, {"machine": measure_cpu()}),
    ],
)
def test_what_agrees_is_not_told(ranks: int, given: dict[str, Any]) -> None:
    assert find(ranks, **given) == []


def test_a_run_on_another_device_than_the_named_one_is_told() -> None:
    named = make_planned(hardware="h100 x 8")
    assert compare_hardware(named, "NVIDIA H100 80GB HBM3") is None
    told = compare_hardware(named, "NVIDIA A100-SXM4-80GB")
    assert told is not None and "h100" in told and "this machine has NVIDIA A100-SXM4-80GB" in told
    assert "Xeon" in str(compare_hardware(named, "Intel Xeon"))
    assert compare_hardware(make_planned(), "Intel Xeon") is None


def test_a_run_refuses_a_device_that_no_table_has() -> None:
    require_hardware(make_planned(hardware="h100 x 8"))
    require_hardware(make_planned(hardware={"memory": "40Gi", "flops": "100T"}))
    with pytest.raises(UserError, match="did you mean h100-sxm"):
        require_hardware(make_planned(hardware="h100-smx x 8"))
