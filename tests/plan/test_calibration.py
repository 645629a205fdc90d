"""Measured rates make a machine's plans; a file that was changed is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planned_recipe import make_planned
from ropewalk.commands.calibrate import calibrate_machine
from ropewalk.core.error import UserError
from ropewalk.parallel import measure_machine
from ropewalk.plan.calibration import (
    HOST_OPTIMIZER,
    Calibration,
    Rate,
    describe_calibrated,
    read_calibration,
    write_calibration,
)
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.hardware import HOST_PARAMETERS_PER_SECOND
from ropewalk.plan.named_hardware import compare_hardware, require_hardware
from ropewalk.plan.planned_machine import count_devices
from ropewalk.plan.step_time import in_float32
from ropewalk.recipe.hardware_keys import Hardware
from search_cases import SHAPES

RATES = {
    "products float32": Rate.of([80e9, 100e9, 90e9]), "products bfloat16": Rate(180e9, 0.0, 8),
    "attention float32": Rate(50e9, 0.0, 8), "attention bfloat16": Rate(60e9, 0.0, 8), "copy": Rate(10e9, 0.0, 8),
    "link": Rate(1e9, 0.0, 8),
}  # fmt: skip
FOUND = Calibration("a processor", "cpu", 2, 16e9, 16e9, RATES)
INIT = {
    "layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp_width": 128, "context_length": 256,
    "tokenizer": 512,
}  # fmt: skip


def test_rates_are_medians_with_their_spread() -> None:
    assert RATES["products float32"].median == 90e9
    assert RATES["products float32"].spread == pytest.approx(20 / 90)
    machine = describe_calibrated(FOUND, ranks=4)
    assert machine.matmul_flops == 90e9 and machine.float32_share == 0.5, "four ranks share what two have"
    wide = in_float32(machine)
    assert (wide.matmul_flops, wide.attention_forward_flops) == (45e9, 25e9), "each of its own measured share"
    gpus = describe_calibrated(replace(FOUND, kind="cuda", ranks=8), ranks=16)
    assert gpus.node_ranks == 8 and gpus.matmul_flops == 180e9, "sixteen ranks are on two such nodes"
    assert gpus.host_parameters_per_second == HOST_PARAMETERS_PER_SECOND, "a file of before this rate was measured"
    own = replace(FOUND, kind="cuda", ranks=8, rates={**RATES, HOST_OPTIMIZER: Rate(0.2e9, 0.0, 8)})
    assert describe_calibrated(own, ranks=16).host_parameters_per_second == 1.6e9, "of a node, by all its ranks"
    assert "0.2 B parameters/s a rank" in own.describe()
    assert (machine.link_bytes_per_second, machine.memory_bytes) == (0.5e9, 8e9)


def test_a_recipe_names_the_file_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    write_calibration(path, FOUND)
    assert read_calibration(path) == FOUND
    recipe = make_planned([{"context_length": "64Ki"}], hardware=str(path), parallel={"ranks": 2, "device": "cpu"})
    (plan,) = forecast_recipe(recipe, SHAPES["0.6b"])
    assert plan.machine.source == f"measured, digest {FOUND.digest[:12]}" and plan.machine.matmul_flops == 180e9
    require_hardware(recipe)
    assert compare_hardware(recipe, "another") is None
    priced = recipe.model_copy(update={"hardware": Hardware(device=str(path), count=4, price=2.0)})
    assert count_devices(priced) == (4, 4)
    with pytest.raises(UserError, match="both measured rates and figures"):
        count_devices(recipe.model_copy(update={"hardware": Hardware(device=str(path), memory=80 << 30)}))
    data = json.loads(path.read_text()) | {"ranks": 1}
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="its digest is not that of its content"):
        forecast_recipe(recipe, SHAPES["0.6b"])
    path.unlink()
    with pytest.raises(UserError, match="--calibrate"):
        require_hardware(recipe)


def test_this_machine_is_measured_on_the_recipes_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spreads depend on what else runs here, so only their presence is tested; docs/plan.md has measured ones."""
    monkeypatch.setattr(measure_machine, "CALLS", 2)
    monkeypatch.setattr(measure_machine, "_TRIES", dict.fromkeys(measure_machine._TRIES, 1))
    monkeypatch.setattr(measure_machine, "_LINK_BYTES", 1 << 20)
    monkeypatch.setitem(measure_machine._COPY_BYTES, "cpu", 1 << 20)
    path = tmp_path / "machine.json"
    recipe = make_planned(model={"init": INIT}, parallel={"ranks": 2, "device": "cpu"})
    named = calibrate_machine(recipe, path)
    found = read_calibration(path)
    assert named.hardware == str(path) and (found.kind, found.ranks) == ("cpu", 2)
    kinds = ("products float32", "attention float32", "products bfloat16", "attention bfloat16", "copy", "link")
    assert set(found.rates) == set(kinds) and all(rate.calls == 2 and rate.median > 0 for rate in found.rates.values())
    assert "spread" in capsys.readouterr().err
    with pytest.raises(UserError, match="json"):
        calibrate_machine(recipe, tmp_path / "machine.txt")


def test_the_rate_of_an_optimizer_on_the_host_counts_each_parameter_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a GPU machine measures it; by a clock that ticks once a call, 1,024 parameters take one tick a step."""
    monkeypatch.setattr(measure_machine, "_HOST_PARAMETERS", 1024)
    ticks = iter(range(100))
    assert measure_machine.measure_host_optimizer(lambda: float(next(ticks))) == 1024
