"""Each example is short, runs under torchrun, and says the same on two ranks as on one.

Two ranks of the longest one are started by torchrun itself, the first as a fresh interpreter; all others are forked
with what torchrun gives a rank.
ray_train.py needs a Ray cluster: tests/parallel/test_ray_worker.py has its parts, benchmarks/ray_train.py runs them.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers.models.llama.modeling_llama  # noqa: F401 - once here, so that every forked rank has it already
from accelerate.state import AcceleratorState

import ropewalk.model.trainer  # noqa: F401 - as above
from fork_server import serve_forks
from forked_torchrun import run_as_torchrun

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = ["attention.py", "training_loop.py", "trainer.py"]
SECONDS = 110.0
Run = Callable[[str, int, Path], str]


def run_torchrun(name: str, ranks: int, folder: Path) -> str:
    """What torchrun with so many ranks printed. A failure and a hang are told with what was written to stderr.

    The first rank is a fresh process, as a user starts it; the others would only import the same again.
    """
    forget_ranks()
    with serve_forks(folder, fresh_rank=0) as python:
        return call_torchrun(name, ranks, folder, python)


def call_torchrun(name: str, ranks: int, folder: Path, python: Path) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    process = subprocess.Popen(
        [*command, str(EXAMPLES / name)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHON_EXEC": str(python)},
    )
    try:
        said, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its ranks
        said, errors = process.communicate()
        pytest.fail(f"still running after {SECONDS:.0f} s\n{said}\n{errors}")
    assert process.returncode == 0, errors
    return said


def run_forked(name: str, ranks: int, folder: Path) -> str:
    """What so many forked ranks printed, with the environment that torchrun gives them."""
    ended = run_as_torchrun((str(EXAMPLES / name),), ranks, folder, seconds=SECONDS, before=forget_ranks)
    assert set(ended.codes) == {0}, (ended.codes, ended.errors)
    return ended.out


def forget_ranks() -> None:
    """accelerate keeps in the process what it found in another test."""
    AcceleratorState._reset_state(True)


def numbers(text: str) -> list[float]:
    """All figures that do not tell the time."""
    return [
        float(each)
        for each in re.findall(
            r"-?\d+\.\d+(?:e-\d+)?",
            re.sub(r"'(?:train_[a-z_]+|eval_runtime|eval_[a-z_]+_per_second)': '[^']+'", "", text),
        )
    ]


def test_every_example_is_known_and_short() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted([*PROGRAMS, "ray_train.py"])
    for name in (*PROGRAMS, "ray_train.py"):
        assert len((EXAMPLES / name).read_text().splitlines()) <= 40, name


@pytest.mark.timeout(2.5 * SECONDS)  # so a hang is told by what ran it, with what both wrote
@pytest.mark.parametrize(
    ("name", "run_two"), [("trainer.py", run_torchrun), ("attention.py", run_forked), ("training_loop.py", run_forked)]
)
def test_two_ranks_say_what_one_says(name: str, run_two: Run, tmp_path: Path) -> None:
    one, two = run_forked(name, 1, tmp_path), run_two(name, 2, tmp_path)
    assert len(numbers(one)) >= 4
    assert numbers(two) == pytest.approx(numbers(one), rel=1e-5)
