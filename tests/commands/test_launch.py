"""The printed scripts do what they say: the one for Slurm is run, with two torchrun nodes on loopback for srun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import ropewalk
from ropewalk.commands.launch import write_script
from ropewalk.commands.run import do_part
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.recipe.load import load_recipe, parse_recipe
from ropewalk.recipe.spec import Recipe

SRUN = """#!/bin/bash
# As Slurm's: one task a node, a signal goes to all of them, the worst exit code is the step's.
while [[ "$1" == --* ]]; do [ "$1" = --ntasks=1 ] && one=1; shift; done
if [ "${one:-0}" = 1 ]; then exec "$@"; fi
tasks=()
trap 'kill -TERM "${tasks[@]}"' TERM
for node in 0 1; do "$@" & tasks+=($!); done
worst=0
for task in "${tasks[@]}"; do
  while :; do wait "$task"; code=$?; kill -0 "$task" 2>/dev/null || break; done
  [ "$code" -gt "$worst" ] && worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" > requeued; else echo 127.0.0.1; fi
"""


def long(recipe: Recipe, run: Path) -> Recipe:
    """Its first stage, with enough steps to be stopped in."""
    data = recipe.to_json()
    stage = {**data["stages"][0], "tokens": 512 * 24}
    return parse_recipe({**data, "run": str(run), "stages": [stage]}, where="test")


def play_slurm(folder: Path, script: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    # The verbs as this test's own interpreter has them.
    for name, module in (("ropewalk", "ropewalk"), ("torchrun", "torch.distributed.run")):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (tools / name).chmod(0o755)
    (folder / "job.sh").write_text(script)
    paths = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(Path(ropewalk.__file__).parents[1])}
    paths["OMP_NUM_THREADS"] = "1"  # the two machines are one, and torchrun only thinks of its own ranks
    return subprocess.Popen(
        ["bash", "job.sh"], cwd=folder, env={**os.environ, **paths, **environment}, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(900)
def test_slurm_stops_queues_again_and_goes_on_to_the_end(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    many, path = long(recipe, tmp_path / "many"), tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump(many.to_json()))
    do_part("prepare", many)  # the script finds it done; the next test stops it while it prepares
    written = write_script("slurm", load_recipe(path), argument=path, overrides=[], nodes=2, image="")
    assert written["ranks_per_node"] == 1
    number = str(os.getpid())
    job = play_slurm(tmp_path, written["script"], {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "n[1-2]"})
    checkpoints, deadline = RunFolder(Path(many.run)).checkpoints(0), time.monotonic() + 120
    while not list(checkpoints.glob("step-*")) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=120)[1]
    assert job.returncode == 0 and (tmp_path / "requeued").read_text().strip() == number, said
    trained = RunFolder(Path(many.run)).trained(0)
    assert not trained.exists(), "it was stopped before its end"
    again = {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": "1"}
    job = play_slurm(tmp_path, written["script"], again)
    said = job.communicate(timeout=200)[1]
    assert job.returncode == 0 and "continues from step-" in said, said
    assert (trained / "model.safetensors").is_file()


def test_slurm_queues_again_what_is_stopped_while_it_prepares(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump(long(recipe, tmp_path / "many").to_json()))
    script = write_script("slurm", load_recipe(path), argument=path, overrides=[], nodes=2, image="")["script"]
    job = play_slurm(tmp_path, "sleep 1\n" + script, {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"})
    verb = f'touch {tmp_path}/$1\ntrap "exit 75" TERM\nwhile :; do sleep 0.05; done\n'
    (tmp_path / "tools" / "ropewalk").write_text(f"#!/bin/sh\n{verb}")
    deadline = time.monotonic() + 60
    while not (tmp_path / "prepare").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 0 and (tmp_path / "requeued").read_text() == "7\n", said
    assert not (tmp_path / "train").exists(), "the ranks were started"


def test_a_pytorchjob_is_yaml_with_a_shell_script_in_it(recipe: Recipe) -> None:
    written = write_script("k8s", recipe, argument=Path("r.yaml"), overrides=["seed=2"], nodes=2, image="me/rope:1")
    job = yaml.safe_load(written["script"])
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {role: each["replicas"] for role, each in replicas.items()} == {"Master": 1, "Worker": 1}
    (container,) = replicas["Worker"]["template"]["spec"]["containers"]
    assert container["image"] == "me/rope:1" and container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    (script,) = container["args"]
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
    assert "ropewalk train r.yaml seed=2" in script and "--nnodes=2 --nproc-per-node=1" in script
    alone = yaml.safe_load(write_script("k8s", recipe, argument=Path("r"), overrides=[], nodes=1, image="i")["script"])
    assert list(alone["spec"]["pytorchReplicaSpecs"]) == ["Master"]


def test_what_cannot_be_shared_out_is_refused(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="2 ranks cannot be divided among 3 machines"):
        write_script("slurm", recipe, argument=Path("r.yaml"), overrides=[], nodes=3, image="")
    with pytest.raises(UserError, match="unknown scheduler 'pbs'"):
        write_script("pbs", recipe, argument=Path("r.yaml"), overrides=[], nodes=1, image="")
