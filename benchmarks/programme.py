"""A programme of stages killed at random and gone on with, against one that nobody touched: the same model, to the bit?

    python benchmarks/programme.py [--recipe recipes/tiny-programme.yaml] [--kills 8] [--seed 0] [--folder FOLDER]

Two runs of the recipe with one token store. The first goes through; the second is killed (SIGKILL to the command and
all its ranks) after random times and started again by the same command, whatever it was at: measuring, training,
saving, exporting. Then every weight, moment, generator and counter of each stage's last checkpoint is compared, each
row that training wrote but for times, and each tensor of the exported model. Called again, it goes on.
Prints one JSON line; ends with 1 if anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from ropewalk.checkpoint.load import newest
from ropewalk.core.artifact import is_finished
from ropewalk.core.digest import digest_bytes
from ropewalk.core.record import TIMED, read_metrics

LONGEST_LIFE_SECONDS = 150.0


def start(recipe: Path, run: Path, log: Path) -> subprocess.Popen[bytes]:
    """The command as a user gives it, in a session of its own."""
    command = [str(Path(sys.executable).with_name("ropewalk")), "run", str(recipe)]
    command += [f"run={run}", f"corpus.store={run.parent / 'store'}"]
    return subprocess.Popen(command, stdout=log.open("ab"), stderr=subprocess.STDOUT, start_new_session=True)


def finish(recipe: Path, run: Path, log: Path, *, lives: list[float]) -> list[str]:
    """Run to the end, ended by force after each of ``lives`` seconds; where the run stood each time."""
    stood = []
    for seconds in lives:
        if is_finished(run):
            break
        process = start(recipe, run, log)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            stood.append(f"{seconds:.0f} s: {read_last(log)}")
            time.sleep(2)  # ranks that outlive their parent end themselves
    if not is_finished(run):
        assert start(recipe, run, log).wait() == 0, f"the run ended badly: see {log}"
    return stood


def read_last(log: Path) -> str:
    """What the run last said."""
    said = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(said) if line.strip()), "")[:60]


def read_contents(run: Path) -> Mapping[str, object]:
    """Everything that must be the same, by name."""
    found: dict[str, object] = {}
    for stage in sorted((run / "stages").iterdir()):
        checkpoint = newest(stage / "checkpoints")
        assert checkpoint is not None, f"{stage} has no whole checkpoint"
        found[f"{stage.name}/state"] = json.loads((checkpoint / "state.json").read_text())
        for path in checkpoint.glob("*.safetensors"):
            found |= {f"{stage.name}/{path.name}/{name}": digest for name, digest in digest_tensors(path).items()}
    for path in (run / "export").glob("*.safetensors"):
        found |= {f"export/{name}": digest for name, digest in digest_tensors(path).items()}
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row.name not in TIMED]
    return found | {f"row/{row.stage}/{row.step}/{row.name}": row.value for row in rows}


def digest_tensors(path: Path) -> Mapping[str, str]:
    # Not the files: their headers keep no order.
    tensors = load_file(path).items()
    return {name: digest_bytes(tensor.view(-1).view(torch.uint8).numpy().tobytes()) for name, tensor in tensors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/tiny-programme.yaml"))
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/programme"))
    asked = parser.parse_args()
    folder, draw = asked.folder.resolve(), random.Random(asked.seed)
    folder.mkdir(parents=True, exist_ok=True)
    finish(asked.recipe, folder / "straight", folder / "straight.log", lives=[])
    lives = [draw.uniform(20, LONGEST_LIFE_SECONDS) for _ in range(asked.kills)]
    stood = finish(asked.recipe, folder / "killed", folder / "killed.log", lives=lives)
    straight, killed = read_contents(folder / "straight"), read_contents(folder / "killed")
    differing = sorted(name for name in {*straight, *killed} if straight.get(name) != killed.get(name))
    tensors = sum(not name.startswith("row/") for name in straight)
    told = {"case": f"{asked.recipe.name}, killed at random", "kills": stood, "tensors_and_figures": tensors}
    print(json.dumps({**told, "rows": len(straight) - tensors, "differing": differing[:20]}, ensure_ascii=False))
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
