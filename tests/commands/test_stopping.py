"""A run that is asked to stop once in every part: each session ends with 75 and keeps its work, the last one comes to
the end."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ropewalk.checkpoint.load import list_checkpoints
from ropewalk.core.artifact import is_finished
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.spec import Recipe

DRIVER = """
import os, signal, sys, time
import {module} as module
plain = module.{name}
def ask(*args, **settings):
    if not os.path.exists({mark!r}):
        open({mark!r}, "w").close()
        {send}
        time.sleep(0.3)
    return plain(*args, **settings)
module.{name} = ask
sys.argv = ["ropewalk", "run", {recipe!r}]
from ropewalk.cli.main import main
main()
"""
GROUP = "os.killpg(0, signal.{})"
SITTINGS = [
    ("preparing", "ropewalk.corpus.prepare.build.build", GROUP.format("SIGTERM")),
    ("loading", "ropewalk.train.prepare_model.build_model", GROUP.format("SIGUSR1")),
    ("in a step", "ropewalk.train.loop.train_step", GROUP.format("SIGINT")),
    ("between stages", "ropewalk.commands.train.write_trained", GROUP.format("SIGTERM")),
    ("measuring", "ropewalk.evaluate.evaluate.measure_model", GROUP.format("SIGTERM")),
    ("exporting", "ropewalk.model.export_parity._ask_fresh_process", GROUP.format("SIGUSR1")),
]


def sit(recipe: Path, moment: str, place: str, send: str) -> subprocess.CompletedProcess[str]:
    module, _, name = place.rpartition(".")
    mark = str(recipe.with_name(moment.replace(" ", "-")))
    code = DRIVER.format(module=module, name=name, mark=mark, send=send, recipe=str(recipe))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert moment == "the end" or Path(mark).exists(), f"{moment} never came: {done.stderr}"
    return done


@pytest.mark.timeout(400)
def test_every_session_keeps_its_work_and_the_last_one_ends(recipe: Recipe, tmp_path: Path) -> None:
    path, folder = tmp_path / "stopped.yaml", RunFolder(Path(recipe.run))
    path.write_text(yaml.safe_dump(recipe.to_json()))
    said = {}
    for moment, place, send in SITTINGS:
        done = sit(path, moment, place, send)
        assert done.returncode == 75, (moment, done.stderr)
        assert "Traceback" not in done.stderr and "starting the ranks again" not in done.stderr, (moment, done.stderr)
        assert done.stderr.endswith("stopped on request, and saved: the same command continues from here\n"), moment
        said[moment] = done.stderr
        if moment == "in a step":
            assert list_checkpoints(folder.checkpoints(0)), "the step that was being taken is saved"
    assert "stage 0 stopped at step" in said["in a step"] and "of 8, which is saved" in said["in a step"]
    assert "continues from step-" in said["between stages"]
    assert is_finished(folder.trained(1)) and not is_finished(folder.root)
    done = sit(path, "the end", "ropewalk.corpus.prepare.build.build", "pass")
    assert done.returncode == 0, done.stderr
    assert is_finished(folder.root) and not list(folder.root.rglob(".tmp-*"))
