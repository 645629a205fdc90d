"""kill -9 of a whole run between its parts: the same command goes on, to the weights of a run that nobody killed."""

import shutil
import time
from pathlib import Path

from faults.experiment import Experiment
from faults.ground import Ground
from forked_verb import start_verb
from ropewalk.core.run_folder import RunFolder
from whole_recipe import write_recipe

_MOMENTS = ("corpus", "first save", "first stage", "second stage", "scores")


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """Killed as soon as the trial's moment has come, and started again."""
    straight, killed = ground.folder / "whole" / "straight", ground.folder / "whole" / trial
    if not (straight / "done").exists():
        _run(straight)
        (straight / "done").touch()
    shutil.rmtree(killed, ignore_errors=True)
    killed.mkdir(parents=True)
    folder = RunFolder(Path(write_recipe(killed).run))
    moment = {
        "corpus": folder.corpus,
        "first save": folder.checkpoint(0, 3),
        "first stage": folder.trained(0),
        "second stage": folder.trained(1),
        "scores": folder.scores,
    }[trial]
    verb = start_verb(["run", str(killed / "recipe.yaml")], killed / "said.txt")
    while not moment.exists() and verb.process.is_alive():
        time.sleep(0.02)
    verb.process.kill()
    verb.wait()
    if folder.export.exists():
        return "it was killed too late"
    _run(killed)
    names = ("stages/0/trained/model.safetensors", "stages/1/trained/model.safetensors", "export/model.safetensors")
    differing = [
        name for name in names if (killed / "run" / name).read_bytes() != (straight / "run" / name).read_bytes()
    ]
    return f"{differing[0]} differs" if differing else ""


def _run(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    write_recipe(home)
    verb = start_verb(["run", str(home / "recipe.yaml")], home / "said.txt")
    assert verb.wait() == 0, verb.said


RUNS = Experiment(
    name="kill -9 of a whole run",
    promise="the same command goes on, and all weights are the same to the bit",
    control="none",
    trials=_MOMENTS,
    controls=[],
    quick=[],  # tests/commands/test_run.py
    quick_controls=[],
    attempt=attempt,
)
