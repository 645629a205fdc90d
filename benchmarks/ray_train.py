"""A run through Ray Train's TorchTrainer on this machine, one of whose ranks is killed, beside that run without Ray.

    python benchmarks/ray_train.py [--folder runs/ray-train] [--out FILE]

Needs `pip install 'ray[train]'`. Both runs are a few steps of the quickstart on two CPU ranks. Ray must start its
workers again after SIGKILL of a rank, the weights must be those of the run without Ray, and a recipe that fails after
it was accepted must end with 2 without a second try. Finished parts are kept, so it can be started again.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ropewalk.core.digest import digest_file
from ropewalk.core.read_json import read_written
from ropewalk.core.versions import find_versions
from ropewalk.parallel.ray_worker import configure_workers, fit_trainer, read_newest, run_on_worker

SHORT = ["stages.0.tokens=96Ki", "stages.0.checkpoint_steps=4", "evaluate.answers=8", "evaluate.documents=2",
         "evaluate.short_tokens=1Ki", "evaluate.lengths=[1, 4]", "evaluate.foreign=[]", "evaluate.abilities=0",
         "parallel.device=cpu"]  # fmt: skip
KILLED_STEP = 6


def kill_a_rank(run: Path, killed: list[int]) -> None:
    """Wait until the run has taken a few steps, then send SIGKILL to the last of its children."""
    while read_newest(run / "metrics.jsonl").get("step", 0) < KILLED_STEP:
        time.sleep(0.1)
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: -int(path.name)):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"ropewalk.cli.child" in words and f"run={run}".encode() in words:
                killed.append(int(folder.name))
                os.kill(killed[0], signal.SIGKILL)
                return


def fit(config: dict[str, Any], storage: Path) -> int:
    """The exit code of a run on Ray that may be started again three times."""
    scaling = ScalingConfig(num_workers=config["ranks"], use_gpu=config["use_gpu"])
    run_config = RunConfig(
        name=f"{Path(config['run']).name}-{os.getpid()}",
        storage_path=str(storage),
        failure_config=FailureConfig(max_failures=3),
    )
    trainer = TorchTrainer(run_on_worker, train_loop_config=config, scaling_config=scaling, run_config=run_config)
    return fit_trainer(trainer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/ray-train"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    store = f"corpus.store={folder / 'store'}"
    plain, on_ray, wrong = (folder / name for name in ("plain", "on-ray", "wrong"))
    begun = time.monotonic()
    command = [sys.executable, "-m", "ropewalk", "run", "quickstart", f"run={plain}", store, *SHORT]
    subprocess.run(command, check=True)
    plain_seconds = time.monotonic() - begun
    ray.init(num_cpus=3, include_dashboard=False)
    killed: list[int] = []
    if not (on_ray / "manifest.json").exists():
        shutil.rmtree(on_ray, ignore_errors=True)
        threading.Thread(target=kill_a_rank, args=(on_ray, killed), daemon=True).start()
    begun = time.monotonic()
    code = fit(configure_workers("quickstart", [f"run={on_ray}", store, *SHORT]), folder / "ray")
    seconds = time.monotonic() - begun
    (folder / "text.jsonl").write_text("{broken\n")
    source = f"corpus.sources.0={{name: topics, path: {folder / 'text.jsonl'}, role: general}}"
    begun = time.monotonic()
    wrong_code = fit(configure_workers("quickstart", [f"run={wrong}", store, source, *SHORT]), folder / "ray")
    found = {
        "case": "ray_train",
        "exit_code": code,
        "killed": len(killed),
        "sessions": len(read_written(on_ray / "sessions.json")),
        "weights_equal": digest_file(on_ray / "export" / "model.safetensors")
        == digest_file(plain / "export" / "model.safetensors"),
        "wrong_input_exit_code": wrong_code,
        "seconds": {"plain": plain_seconds, "ray": seconds, "wrong": time.monotonic() - begun},
        "versions": find_versions(("ropewalk", "torch", "ray")),
    }
    print(json.dumps(found))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
