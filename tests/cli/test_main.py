"""The command line: instant, honest about its faults, readable by programs."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from jaxtyping import config
from typer.testing import CliRunner

from forked_verb import start_verb
from invented_run import write_run
from ropewalk.cli.main import app
from ropewalk.commands import run as run_module
from ropewalk.core.record import read_scores, write_scores

ROPEWALK = [sys.executable, "-m", "ropewalk"]
VERBS = [
    "run",
    "prepare",
    "extend",
    "import",
    "advise",
    "train",
    "evaluate",
    "export",
    "verify",
    "replay",
    "report",
    "watch",
    "launch",
    "check",
    "sweep",
    "schema",
]


def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ROPEWALK, *arguments], capture_output=True, text=True, check=False, cwd=cwd)


def test_help_is_instant_and_names_every_verb() -> None:
    call("--help")  # the first start compiles
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = call("--help")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and all(verb in done.stdout for verb in VERBS)
    # Processor seconds, because other programs may run beside it: 0.35 to 0.65 by CPU.
    assert spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime < 1.3


EXPLAINED = [*VERBS, "corpus inspect", "corpus score"]
EXPLAIN = """
import os, sys
from ropewalk.cli.main import app
for number, verb in enumerate(sys.argv[2:]):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, verb
        continue
    for stream in (1, 2):
        os.dup2(os.open(f"{sys.argv[1]}/{number}-{stream}", os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["ropewalk", *verb.split(), "--help"]
    try: app()
    except SystemExit: pass
    assert not {"torch", "transformers"} & set(sys.modules)
    break
"""


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of what each verb prints, and what a verb that imports torch says.

    One interpreter without torch imports the command line once, and each verb has a fork of it.
    """
    folder = tmp_path_factory.mktemp("explained")
    command = [sys.executable, "-c", EXPLAIN, str(folder), *EXPLAINED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return folder, done.stderr


@pytest.mark.parametrize("verb", EXPLAINED)
def test_every_verb_explains_itself_without_torch(verb: str, explained: tuple[Path, str]) -> None:
    folder, fault = explained
    assert fault == "" and "--json" in (folder / f"{EXPLAINED.index(verb)}-1").read_text(), fault


def test_what_is_wrong_ends_with_exit_code_2_and_the_cure(tmp_path: Path) -> None:
    done = call("run", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "fix:" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_programs_get_the_error_as_json(tmp_path: Path) -> None:
    done = call("check", "nowhere.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 2 and set(json.loads(done.stdout)["error"]) == {"what", "where", "why", "fix"}


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_the_output_has_not_are_escaped(tmp_path: Path, form: tuple[str, ...], encoding: str) -> None:
    name = "配方-\U0001f40d-é.yaml"
    recipe = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
    (tmp_path / name).write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    verb, out = ["launch", "slurm", name, *form], tmp_path / "out.txt"
    if encoding == "ascii" and not form:  # a whole interpreter; the others are forks whose output has that encoding
        said = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([*ROPEWALK, *verb], capture_output=True, check=False, cwd=tmp_path, env=said)
        assert done.returncode == 0, done.stderr.decode()
        out.write_bytes(done.stdout)
    else:

        def speak() -> None:
            config.update("jaxtyping_disable", True)  # as in an interpreter of its own
            os.chdir(tmp_path)
            sys.stdout = io.TextIOWrapper(out.open("wb"), encoding=encoding, write_through=True)

        forked = start_verb(verb, tmp_path / "errors.txt", before=speak)
        assert forked.wait() == 0, forked.said
    shown = out.read_bytes().decode(encoding)
    if form:
        assert name in json.loads(shown)["script"]
    else:
        assert name.encode(encoding, "backslashreplace").decode(encoding) in shown


def test_extending_asks_for_a_target(tmp_path: Path) -> None:
    done = call("extend", str(tmp_path), "context_length=16Ki")
    assert done.returncode == 2 and "the folder for the extended model is missing" in done.stderr
    (tmp_path / "out").mkdir()
    done = call(
        "extend", str(tmp_path), str(tmp_path / "out"), "context_length=16Ki", "rope.kind=theta", "rope.theta=1e6"
    )
    assert done.returncode == 2 and "there already" in done.stderr


@pytest.mark.parametrize(("low", "high", "code"), [(0.97, 0.99, 0), (0.94, 0.99, 4), (0.90, 0.94, 3)])
def test_strict_ends_as_the_targets_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: float, high: float, code: int
) -> None:
    """As an option, and as a key of the recipe; without either a report is a report. Its page is drawn elsewhere."""
    monkeypatch.setattr(run_module, "write_report", lambda folder: None)
    run = write_run(tmp_path / "run")
    (run / "manifest.json").unlink()
    scores = [
        replace(score, value=(low + high) / 2, low=low, high=high)
        if score.context_tokens == 2048 and score.model == "extended" and score.metric == "accuracy"
        else score
        for score in read_scores(run / "scores.json")
    ]
    write_scores(run / "scores.json", scores)
    recipe = tmp_path / "recipe.yaml"
    shutil.copy(run / "recipe.yaml", recipe)
    for arguments, expected in (([], 0), (["--strict"], code), (["strict=true"], code)):
        done = CliRunner().invoke(app, ["report", str(recipe), f"run={run}", *arguments])
        assert done.exit_code == expected, done.output
