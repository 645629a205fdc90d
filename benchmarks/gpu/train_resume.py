"""Part 5: a training run in bfloat16, straight, and killed and resumed, against losses that a CPU found.

    python -m gpu.train_resume --write-losses     # on a CPU: writes cpu_losses.json beside this file

The model is tiny and its corpus is drawn, so nothing is read but this folder. A GPU sums in another order, so its
losses are near the CPU's, not equal; after a kill they are near those of the straight run for the same reason.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu.target import Target, read_target, tell
from ropewalk.core.record import read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe, write_corpus, write_model

LOSSES = Path(__file__).parent / "cpu_losses.json"
STEPS = 24
ROW = {"tokens": STEPS * 4 * 64, "micro_batch_size": 1, "checkpoint_steps": 4, "log_steps": 4}
PARALLEL = {"ranks": 1, "context_parallel": 1, "precision": "bfloat16", "kernels": "torch", "compile": "none"}
NEAR_CPU, NEAR_STRAIGHT = 3e-2, 1e-2
"""Relative bounds of a loss. On a CPU both runs are the same to the bit."""
KILL_SECONDS = 60.0


def train(folder: Path, run: Path, target: Target) -> None:
    """Train stage 0 of the drawn model on one rank, or go on where an earlier process stopped."""
    recipe = make_recipe(**ROW, parallel=PARALLEL)

    def on_rank() -> None:  # a rank works in a thread, which would not see a kernel that is chosen outside
        with target.emulate():
            train_stage(recipe, stage=0, run=run, corpus=folder / "corpus")

    run_ranks(on_rank, 1, threads=1, setup=RankSetup(target.device))


def prepare(folder: Path, name: str) -> Path:
    """A run folder whose extended model stands."""
    run = folder / name
    (run / "stages" / "0").mkdir(parents=True)
    (run / "stages" / "0" / "extended").symlink_to(folder / "model" / "stages" / "0" / "extended")
    return run


def kill_after_checkpoint(folder: Path, run: Path, target: Target) -> str:
    """Train in a process of its own and kill it with its rank after its first checkpoint; the checkpoint's name."""
    flags = ["--dry-run"] if target.dry else []
    command = [sys.executable, "-m", "gpu.train_resume", "--train", str(folder), str(run), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + KILL_SECONDS
    saved: list[Path] = []
    while not saved and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
        saved = sorted((run / "stages" / "0" / "checkpoints").glob("step-*"))
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert saved, f"no checkpoint stood before the kill: {said[-2000:]}"
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    return saved[0].name


def read_losses(run: Path) -> dict[str, float]:
    """The training loss by step."""
    rows = read_metrics(RunFolder(run).metrics)
    return {str(row.step): row.value for row in rows if row.name == "loss/train"}


def find_difference(found: dict[str, float], truth: dict[str, float]) -> float:
    """The largest relative difference; both have the same steps."""
    assert found.keys() == truth.keys(), f"steps {sorted(found)} and {sorted(truth)}"
    return max(abs(found[step] / truth[step] - 1) for step in truth)


def main(target: Target) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model", folder / "tokenizer")
        write_corpus(folder)
        straight = prepare(folder, "straight")
        begun = time.perf_counter()
        train(folder, straight, target)
        losses: dict[str, Any] = read_losses(straight)
        near = find_difference(losses, json.loads(LOSSES.read_text())["losses"])
        tell("straight run", steps=STEPS, seconds=time.perf_counter() - begun, difference_from_cpu=near, bound=NEAR_CPU)
        killed = prepare(folder, "killed")
        checkpoint = kill_after_checkpoint(folder, killed, target)
        train(folder, killed, target)
        difference = find_difference(read_losses(killed), losses)
        tell("killed and resumed", killed_after=checkpoint, difference_from_straight=difference, bound=NEAR_STRAIGHT)
    assert near <= NEAR_CPU, f"losses differ from the CPU's by {near}"
    assert difference <= NEAR_STRAIGHT, f"the resumed run's losses differ from the straight run's by {difference}"


def write_losses() -> None:
    """Losses of a CPU, with its own kernels."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model", folder / "tokenizer")
        write_corpus(folder)
        recipe, run = make_recipe(**ROW, parallel=PARALLEL), prepare(folder, "cpu")
        run_ranks(
            lambda: train_stage(recipe, stage=0, run=run, corpus=folder / "corpus"),
            1,
            threads=1,
            setup=RankSetup("cpu"),
        )
        content = {"what": "loss/train by step, bfloat16, CPU kernels, one rank", "losses": read_losses(run)}
        LOSSES.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if "--write-losses" in sys.argv:
        write_losses()
    elif "--train" in sys.argv:
        train(*map(Path, sys.argv[2:4]), Target("--dry-run" in sys.argv, tiny=False))
    else:
        main(read_target())
