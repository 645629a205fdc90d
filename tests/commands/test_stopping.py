"""A run that is asked to stop once in every part: each session ends with 75 and keeps its work, the last one comes to
the end."""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from forked_verb import Verb, start_verb
from ropewalk.checkpoint.load import list_checkpoints
from ropewalk.core.artifact import is_finished
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.spec import Recipe

SITTINGS = [
    ("preparing", "ropewalk.corpus.prepare.build.build", signal.SIGTERM),
    ("loading", "ropewalk.train.prepare_model.build_model", signal.SIGUSR1),
    ("in a step", "ropewalk.train.loop.train_step", signal.SIGINT),
    ("between stages", "ropewalk.commands.train.write_trained", signal.SIGTERM),
    ("measuring", "ropewalk.evaluate.evaluate.measure_model", signal.SIGTERM),
    ("exporting", "ropewalk.model.export_parity._ask_fresh_process", signal.SIGUSR1),
]


def ask_at(place: str, mark: Path, number: signal.Signals) -> Callable[[], None]:
    """What makes the first call of the function at ``place``, on any rank, send a signal to all of the command."""

    def arrange() -> None:
        name = place.rpartition(".")[2]
        module = importlib.import_module(place.rpartition(".")[0])
        plain = getattr(module, name)

        def ask(*args: Any, **settings: Any) -> Any:
            if not mark.exists():
                mark.touch()
                os.killpg(0, number)
                time.sleep(0.3)
            return plain(*args, **settings)

        for held in [each for known, each in sys.modules.items() if known.startswith("ropewalk")]:
            if getattr(held, name, None) is plain:  # also where it was imported by its name
                setattr(held, name, ask)

    return arrange


def sit(recipe: Path, moment: str, place: str, number: signal.Signals) -> Verb:
    mark = recipe.with_name(moment.replace(" ", "-"))
    verb = start_verb(["run", str(recipe)], recipe.with_suffix(".txt"), before=ask_at(place, mark, number))
    verb.wait()
    assert mark.exists(), f"{moment} never came: {verb.said}"
    return verb


@pytest.mark.timeout(900)
def test_every_session_keeps_its_work_and_the_last_one_ends(recipe: Recipe, tmp_path: Path) -> None:
    path, folder = tmp_path / "stopped.yaml", RunFolder(Path(recipe.run))
    path.write_text(yaml.safe_dump(recipe.to_json()))
    told = {}
    for moment, place, number in SITTINGS:
        verb = sit(path, moment, place, number)
        assert verb.wait() == 75, (moment, verb.said)
        assert "Traceback" not in verb.said and "starting the ranks again" not in verb.said, (moment, verb.said)
        assert verb.said.endswith("stopped on request, and saved: the same command continues from here\n"), moment
        told[moment] = verb.said
        if moment == "in a step":
            assert list_checkpoints(folder.checkpoints(0)), "the step that was being taken is saved"
    assert "stage 0 stopped at step" in told["in a step"] and "of 8, which is saved" in told["in a step"]
    assert "continues from step-" in told["between stages"]
    assert is_finished(folder.trained(1)) and not is_finished(folder.root)
    last = start_verb(["run", str(path)], tmp_path / "last.txt")
    assert last.wait() == 0, last.said
    assert is_finished(folder.root) and not list(folder.root.rglob(".tmp-*"))
