"""The script for Slurm does what it says: it is run, with two torchrun nodes on loopback in the place of srun."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

import ropewalk
from fork_server import serve_forks
from ropewalk.commands.launch import KINDS, Asked, name_job, write_script
from ropewalk.commands.run import do_part
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.elastic import run_elastic
from ropewalk.recipe.check import check
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
SBATCH = """#!/bin/bash
# As Slurm's: the script comes on standard input, the number of the job goes to standard output.
mkdir -p jobs
number=$(($(ls jobs | wc -l) / 2 + 1))
cat > jobs/$number.sh
echo "$@" > jobs/$number.options
echo "$number;cluster"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" > requeued; else echo 127.0.0.1; fi
"""


PYTHON = Path(sys.executable)


def long(recipe: Recipe, run: Path) -> Recipe:
    """Its first stage, with enough steps to be stopped in."""
    data = recipe.to_json()
    stage = {**data["stages"][0], "tokens": 512 * 24}
    return parse_recipe({**data, "run": str(run), "stages": [stage]}, where="test")


def install(folder: Path, python: Path = PYTHON) -> dict[str, str]:
    """The tools of a site with Slurm, in ``folder``; the environment of its shells. ``python`` runs torchrun."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sbatch", SBATCH)):
        (tools / name).write_text(text)
    # Of all parts only the training, which is what is stopped.
    (tools / "ropewalk").write_text(
        f'#!/bin/sh\n[ "$1" != run ] || {{ shift; set -- train "$@"; }}\nexec {python} -m ropewalk "$@"\n'
    )
    (tools / "python3").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(ropewalk.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",  # the two machines are one, and torchrun only thinks of its own ranks
    }


def submit(folder: Path, script: str) -> list[str]:
    """Run the printed script; return the options of its jobs, which lie in ``jobs`` then."""
    environment = install(folder)
    (folder / "submit.sh").write_text(script)
    done = subprocess.run(
        ["bash", "submit.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [path.read_text() for path in sorted((folder / "jobs").glob("*.options"))]


def play(
    folder: Path, job: int, verb: str | None = None, python: Path = PYTHON, **environment: str
) -> subprocess.Popen[str]:
    """Start a submitted job on two machines, as Slurm would; ``verb`` is a script in the place of ropewalk."""
    site = install(folder, python)
    if verb is not None:
        (folder / "tools" / "ropewalk").write_text(verb)
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "1"}
    return subprocess.Popen(
        ["bash", f"jobs/{job}.sh"],
        cwd=folder,
        env={**site, **slurm, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(900)
def test_slurm_stops_queues_again_and_goes_on_to_the_end(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents of torchrun and their ranks are forks; fresh ones are in test_run.py and test_examples.py."""
    monkeypatch.chdir(tmp_path)
    many, path = long(recipe, tmp_path / "many"), tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump(many.to_json()))
    do_part("prepare", many)  # the script finds it done; the next test stops it while it prepares
    with serve_forks(tmp_path) as python:
        stop_and_go_on(many, path, tmp_path, python)


def stop_and_go_on(many: Recipe, path: Path, tmp_path: Path, python: Path) -> None:
    written = write_script("slurm", load_recipe(path), argument=path, overrides=[], asked=Asked(nodes=2))
    assert written["ranks_per_node"] == 1
    submit(tmp_path, written["script"])
    job = play(tmp_path, 2, python=python)
    checkpoints, deadline = RunFolder(Path(many.run)).checkpoints(0), time.monotonic() + 120
    while not list(checkpoints.glob("step-*")) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=120)[1]
    assert job.returncode == 0 and (tmp_path / "requeued").read_text().strip() == str(os.getpid()), said
    trained = RunFolder(Path(many.run)).trained(0)
    assert not trained.exists(), "it was stopped before its end"
    job = play(tmp_path, 2, python=python, SLURM_RESTART_COUNT="1")
    said = job.communicate(timeout=200)[1]
    assert job.returncode == 0 and "continues from step-" in said, said
    assert (trained / "model.safetensors").is_file()


def play_stub(folder: Path, script: str, verb: str) -> subprocess.Popen[str]:
    """Start the preparation of ``script`` with ``verb``, lines of a shell, in the place of ropewalk."""
    submit(folder, script)
    return play(folder, 1, verb=f"#!/bin/sh\n{verb}", SLURM_JOB_ID="7")


def test_slurm_queues_again_what_is_stopped_while_it_prepares(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = write_script("slurm", recipe, argument=Path("quickstart"), overrides=[], asked=Asked(nodes=2))["script"]
    verb = f'touch {tmp_path}/$1\ntrap "exit 75" TERM\nwhile :; do sleep 0.05; done\n'
    job = play_stub(tmp_path, script, verb)
    deadline = time.monotonic() + 60
    while not (tmp_path / "prepare").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 0 and (tmp_path / "requeued").read_text() == "7\n", said


def test_slurm_never_repeats_wrong_input(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = write_script("slurm", recipe, argument=Path("quickstart"), overrides=[], asked=Asked(nodes=2))["script"]
    job = play_stub(tmp_path, script, "exit 2\n")
    assert job.communicate(timeout=60) and job.returncode == 2 and not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("code", [2, 3, 4])
def test_slurm_never_repeats_what_would_end_in_the_same_way(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Also where the job was asked to stop meanwhile."""
    monkeypatch.chdir(tmp_path)
    script = write_script("slurm", recipe, argument=Path("quickstart"), overrides=[], asked=Asked(nodes=2))["script"]
    job = play_stub(tmp_path, script, f'trap "exit {code}" TERM\ntouch {tmp_path}/runs\nwhile :; do sleep 0.05; done\n')
    deadline = time.monotonic() + 60
    while not (tmp_path / "runs").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == code and not (tmp_path / "requeued").exists(), said


def test_slurm_prepares_on_cpus_before_it_trains(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    on_gpus = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"device": "cuda"})})
    asked = Asked(nodes=2, cpus=16, prepare_jobs=3)
    script = write_script("slurm", on_gpus, argument=Path("quickstart"), overrides=["seed=2"], asked=asked)["script"]
    survey, tokenise, prepare, train = submit(tmp_path, script)
    assert "--array=0-2" in survey and "--dependency" not in survey
    assert "--array=0-2" in tokenise and "--dependency=afterok:1" in tokenise
    assert "--dependency=afterok:2" in prepare and "--gpus" not in prepare and "--nodes=1" in prepare
    assert "--dependency=afterok:3" in train and "--gpus-per-node=1 --exclusive --mem=0" in train
    assert all("--cpus-per-task=16 --mem=64G" in each for each in (survey, tokenise, prepare))
    assert all(word in train for word in ("--cpus-per-task=16", "--nodes=2", "--requeue", "--signal=B:TERM@300"))
    jobs = [(tmp_path / "jobs" / f"{number}.sh").read_text() for number in (1, 2, 3, 4)]
    assert all(job.splitlines()[3].startswith("trap ") for job in jobs), "a signal is heard before anything is done"
    assert '--share "$SLURM_ARRAY_TASK_ID/3"' in jobs[0] and "ropewalk run quickstart seed=2" in jobs[3]
    many = on_gpus.model_copy(update={"parallel": on_gpus.parallel.model_copy(update={"ranks": 16})})
    for kind, small, large in (
        ("slurm", "--cpus-per-task=16 --mem=64G", "--cpus-per-task=64"),
        ("k8s", 'cpu: "16", memory: 64Gi}', 'cpu: "64", memory: 512Gi, nvidia'),
        ("kubeflow", 'cpu: "16", memory: 64Gi}', 'cpu: "64", memory: 512Gi, nvidia'),
        ("ray", "PREPARE_CPUS = 2, 64, 8, 16", "num_cpus=CPUS, num_gpus=GPUS"),
    ):
        text = write_script(kind, many, argument=Path("r"), overrides=[], asked=Asked(nodes=2))["script"]
        assert small in text and large in text, "a machine without GPUs need not be as large"
    shared = write_script(
        "slurm", recipe, argument=Path("r"), overrides=[], asked=Asked(2, memory_gib=9, exclusive=False)
    )
    assert "--mem=9G" in shared["script"] and "--exclusive" not in shared["script"]


def test_what_cannot_be_shared_out_is_refused(recipe: Recipe) -> None:
    def write(kind: str, nodes: int, **changes: object) -> None:
        changed = recipe.model_copy(update=changes)
        write_script(kind, changed, argument=Path("r.yaml"), overrides=[], asked=Asked(nodes=nodes))

    with pytest.raises(UserError, match="2 ranks cannot be divided among 3 machines"):
        write("slurm", 3)
    with pytest.raises(UserError, match="unknown scheduler 'pbs'"):
        write("pbs", 1)
    with pytest.raises(UserError, match="2 ranks do not fit on a machine of 1 device") as raised:
        write("k8s", 1, hardware="h100-sxm x 1")
    assert "--nodes 2" in raised.value.fix
    with pytest.raises(UserError, match="which devices"):
        write("sky", 1, parallel=recipe.parallel.model_copy(update={"device": "cuda"}))
    with pytest.raises(UserError, match="--memory 0"):
        write_script("k8s", recipe, argument=Path("r"), overrides=[], asked=Asked(nodes=1, memory_gib=0))


OVERRIDE = re.compile(r"(parallel\.\w+|hardware)=('[^']*'|\S+?)(?=[\s,]|$)")


def offer(fix: str) -> list[tuple[list[str], int | None]]:
    """The ways that a fix offers, each as its overrides and its number of machines."""
    ways = []
    for part in fix.split(", or "):
        nodes = re.search(r"--nodes (\d+)", part)
        ways.append(([f"{key}={value.strip(chr(39))}" for key, value in OVERRIDE.findall(part)],
                     None if nodes is None else int(nodes[1])))  # fmt: skip
    return ways


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(
    ("overrides", "nodes"),
    [
        ((), 3),
        ((), 0),
        (("parallel.ranks=5",), 1),
        (("parallel.ranks=5",), 3),
        (("parallel.ranks=6", "parallel.replicas=4"), 2),
        (("parallel.ranks=8", "parallel.context_parallel=8"), 3),
        (("parallel.ranks=10", "hardware=h100-sxm x 4"), 1),
        (("parallel.ranks=12", "parallel.context_parallel=4", "hardware=h100-sxm x 2"), 3),
        (("parallel.ranks=4", "hardware=h100-sxm"), 2),
        (("parallel.ranks=4", "parallel.device=cuda"), 2),
    ],
)
def test_what_a_refusal_offers_is_accepted(kind: str, overrides: tuple[str, ...], nodes: int) -> None:
    """Each way is typed after the same command: launch takes it, and so do the rules of the recipe."""

    named = ["hardware=h100-sxm"] if kind == "sky" and "parallel.device=cuda" not in overrides else []

    def write(more: Sequence[str], count: int) -> Recipe:
        recipe = load_recipe(Path("quickstart"), [*named, *overrides, *more])
        write_script(kind, recipe, argument=Path("quickstart"), overrides=[], asked=Asked(nodes=count))
        return recipe

    try:
        write((), nodes)
    except UserError as error:
        ways = offer(error.fix)
        assert any(more or count is not None for more, count in ways), error
        for more, count in ways:
            recipe = write(more, nodes if count is None else count)
            wrong = [each for each in check(recipe, None) if each.level == "error"]
            assert [each for each in wrong if each.key.startswith("parallel")] == []
            assert count is not None or wrong == []
    else:
        assert "hardware=h100-sxm" in overrides or "parallel.device=cuda" in overrides


def test_a_run_of_any_name_gives_a_name_that_schedulers_take() -> None:
    assert name_job("Über Llama_3.1") == "ropewalk-uber-llama-3-1"
    assert name_job("超长") == "ropewalk" and len(name_job("x" * 90)) == 40


@pytest.mark.parametrize(("code", "means"), [(2, 2), (3, 3), (4, 4), (75, 75), (9, 1)])
def test_torchruns_end_says_what_its_ranks_said(code: int, means: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)  # the agent's, which are not for this process
    options = ["--standalone", "--nproc-per-node=1", "--no-python", "sh", "-c", f"exit {code}"]
    assert run_elastic(options) == means
