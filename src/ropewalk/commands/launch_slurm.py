"""The script for Slurm: ``bash FILE`` submits the preparation as a job of CPUs, and the training to follow it.

Slurm warns the batch shell (``B:``) before the time is over and before a preemption. The shell passes the signal on,
waits until everything is saved, and queues its job again. A job that ends with code 2, wrong input, is never queued
again.
"""

import shlex
from pathlib import Path

from ropewalk.commands.launch_target import GRACE_SECONDS, STOP_SECONDS, Target
from ropewalk.core.quantity import format_count

_GUARD = """#!/bin/bash
asked=0
task=
trap 'asked=1; [ -z "$task" ] || kill -TERM "$task" 2>/dev/null' TERM USR1
set -u
# The time that torchrun gives ranks for saving; the default is 30 s.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={grace}
# srun does not take the processors of a task from its job.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
again() {{ echo "stopped on request; queued again to continue"; scontrol requeue "$SLURM_JOB_ID" || exit 75; exit 0; }}
# Run a command to its end: a signal ends the wait, not the command.
follow() {{
  [ "$asked" = 0 ] || again
  "$@" &
  task=$!
  [ "$asked" = 0 ] || kill -TERM "$task" 2>/dev/null
  while :; do
    wait "$task"; code=$?
    kill -0 "$task" 2>/dev/null || break
  done
  [ "$code" != 75 ] || again
  [ "$asked" = 0 ] || case $code in 0|2|3|4) ;; *) again;; esac
  [ "$code" = 0 ] || exit "$code"
}}
"""
_SCRIPT = """#!/bin/bash
# {name} on {size}. `bash THIS_FILE` submits the jobs; nothing else is to be done.
set -e
cd {folder}
site=()      # options of your site for all jobs, such as --account=me
cpu_site=()  # for the preparation, such as --partition=cpu
gpu_site=()  # for the training, such as --partition=gpu
common=(--parsable --requeue --open-mode=append --signal=B:TERM@{stop} --kill-on-invalid-dep=yes --time={time})
cpus=(--nodes=1 --ntasks=1 --cpus-per-task={prepare_cpus} --mem={prepare_gib}G "${{site[@]}}" "${{cpu_site[@]}}")
{shards}
prepared=$(sbatch "${{common[@]}}" "${{cpus[@]}}" --job-name={name}-prepare --output=%x-%j.log{after} <<'JOB'
{guard}follow srun ropewalk prepare {arguments}
JOB
)
trained=$(sbatch "${{common[@]}}" --job-name={name} --nodes={nodes} --ntasks-per-node=1 --cpus-per-task={cpus} \\
  {resources} --output=%x-%j.log \\
  --dependency=afterok:"${{prepared%%;*}}" "${{site[@]}}" "${{gpu_site[@]}}" <<'JOB'
{guard}head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
follow srun --kill-on-bad-exit=1 python3 -m ropewalk.parallel.elastic --nnodes={nodes} --nproc-per-node={local} \\
  --max-restarts={restarts} \\
  --rdzv-backend=c10d --rdzv-endpoint="$head_node:$port" --rdzv-id="$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}" \\
  --no-python ropewalk run {arguments}
JOB
)
echo "preparation ${{prepared%%;*}}, then training, evaluation and export ${{trained%%;*}}: squeue --me"
"""
_SHARDS = """# The text in {jobs} shares: the first array looks at the text, the second one makes the shares.
before=()
for pass in survey tokenise; do
  share=$(sbatch "${{common[@]}}" "${{cpus[@]}}" --job-name={name}-$pass --array=0-{last} --output=%x-%A-%a.log \\
    "${{before[@]}}" <<'JOB'
{guard}follow srun ropewalk corpus tokenise {arguments} --share "$SLURM_ARRAY_TASK_ID/{jobs}"
JOB
  )
  before=(--dependency=afterok:"${{share%%;*}}")
done
"""


def write_slurm(target: Target) -> str:
    """A script that submits ``target``; its jobs are bash scripts inside it."""
    guard = _GUARD.format(grace=GRACE_SECONDS)
    whole = target.exclusive and target.whole_memory
    resources = [f"--gpus-per-node={target.local}"] if target.gpus else []
    resources += ["--exclusive"] if target.exclusive else []
    resources.append("--mem=0" if whole else f"--mem={target.memory_gib}G")
    facts = {
        "name": target.name,
        "nodes": target.nodes,
        "local": target.local,
        "cpus": target.cpus,
        "prepare_cpus": target.prepare_cpus,
        "prepare_gib": target.prepare_gib,
        "time": shlex.quote(target.time),
        "restarts": target.restarts,
        "stop": STOP_SECONDS,
        "arguments": target.arguments,
        "size": f"{format_count(target.nodes, 'machine')} of {format_count(target.local, 'rank')}",
        "folder": shlex.quote(str(Path.cwd())),
        "resources": " ".join(resources),
        "guard": guard,
    }
    jobs = target.prepare_jobs
    shards = _SHARDS.format(**facts, jobs=jobs, last=jobs - 1) if jobs > 1 else ""
    return _SCRIPT.format(**facts, shards=shards, after=' "${before[@]}"' if jobs > 1 else "")
