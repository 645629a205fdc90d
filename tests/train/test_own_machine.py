"""A rank plans with the memory of its own device, whatever the device is called."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ropewalk.parallel import device
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.savings import Savings
from ropewalk.shape.read import read_shape
from ropewalk.train.fit_device import Fit, fit_device
from tiny_run import make_recipe

OPEN = {"recompute": "auto", "mlp_tile_tokens": "auto", "offload": "auto", "states": "auto"}


@pytest.mark.parametrize("name", ["NVIDIA Never Heard Of", "NVIDIA H200"])
def test_the_memory_of_an_unknown_card_decides_what_is_saved(
    prepared: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    card = SimpleNamespace(name=name, major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda of: card)
    recipe = make_recipe(parallel=OPEN)

    def choose(last_bytes: int) -> Fit:
        device._taken[:] = [torch.device("cuda", 1)]
        if torch.distributed.get_rank() == 1:
            card.total_memory = last_bytes
        shape = read_shape(prepared[0] / "stages" / "0" / "extended")
        return fit_device(recipe.parallel, recipe.stages[0], shape)

    (roomy, same), (tight, other) = (run_ranks(choose, 2, last_bytes) for last_bytes in (80 * 2**30, 2**18))
    assert roomy == same == Fit(Savings()), "all fits"
    assert tight == other != roomy, "the rank with the smallest memory decides"
    told = capfd.readouterr().err
    assert told.count("generic rates of compute capability 9.0") == (0 if "H200" in name else 2), "once a choice"
