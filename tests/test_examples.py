"""Each example is short, runs under torchrun, and says the same on two ranks as on one."""

import contextlib
import io
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from transformers import Trainer

from ropewalk.model.parallelize import parallelize
from ropewalk.parallel.launch import run_ranks

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = ["attention.py", "training_loop.py", "trainer.py"]
WARM = (Trainer, parallelize)
"""Imported before the fork, so that one rank starts at once."""


def run_alone(path: Path) -> str:
    """What the program prints as torchrun's only rank: called by run_ranks, whose group it leaves."""
    dist.destroy_process_group()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_path(str(path), run_name="__main__")
    return said.getvalue()


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
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(PROGRAMS)
    for name in PROGRAMS:
        assert len((EXAMPLES / name).read_text().splitlines()) <= 40, name


@pytest.mark.parametrize("name", PROGRAMS)
def test_two_ranks_say_what_one_says(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = subprocess.run([*command, str(EXAMPLES / name)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    (one,) = run_ranks(run_alone, 1, EXAMPLES / name)
    assert len(numbers(one)) >= 4
    assert numbers(two.stdout) == pytest.approx(numbers(one), rel=1e-5)
