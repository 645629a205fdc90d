"""Each example is short, runs under torchrun, and says the same on two ranks as on one.

ray_train.py needs a Ray cluster: tests/parallel/test_ray_worker.py has its parts, benchmarks/ray_train.py runs them.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = ["attention.py", "training_loop.py", "trainer.py"]
SECONDS = 110.0


def start(name: str, ranks: int, folder: Path) -> subprocess.Popen[str]:
    """torchrun with so many ranks: fresh processes, as a user starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*command, str(EXAMPLES / name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed; a failure and a hang are told with what it wrote to stderr."""
    try:
        said, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its ranks
        said, errors = process.communicate()
        pytest.fail(f"still running after {SECONDS:.0f} s\n{said}\n{errors}")
    assert process.returncode == 0, errors
    return said


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


@pytest.mark.timeout(2.5 * SECONDS)  # so a hang is told by ``finish``, with what both wrote
@pytest.mark.parametrize("name", PROGRAMS)
def test_two_ranks_say_what_one_says(name: str, tmp_path: Path) -> None:
    started = [start(name, ranks, tmp_path) for ranks in (1, 2)]
    one, two = [finish(process) for process in started]
    assert len(numbers(one)) >= 4
    assert numbers(two) == pytest.approx(numbers(one), rel=1e-5)
