"""A few trials of every experiment of ``make faults``, and a control of most, at every test run."""

from pathlib import Path

import pytest

from faults.__main__ import EXPERIMENTS
from faults.experiment import Experiment, run_trial
from faults.ground import Ground, make_ground


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_ground(Path(tmp_path_factory.mktemp("faults")) / "ground")


QUICK = [(each, trial, True) for each in EXPERIMENTS for trial in each.quick]
QUICK += [(each, trial, False) for each in EXPERIMENTS for trial in each.quick_controls]


@pytest.mark.parametrize(
    ("experiment", "trial", "guarded"), QUICK, ids=[f"{e.name}: {t}{'' if g else ', control'}" for e, t, g in QUICK]
)
def test_as_promised(ground: Ground, experiment: Experiment, trial: str, guarded: bool) -> None:
    result = run_trial(experiment, ground, trial, guarded=guarded)
    assert result.as_promised, result.fault or "the control came to no harm"
