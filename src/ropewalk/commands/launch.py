"""Prints a script that starts a recipe on many machines, for Slurm or as a PyTorchJob for Kubernetes.

The script is never submitted here. Both kinds start torchrun on every machine and stop it gently. The scheduler's
warning reaches the ranks as SIGTERM. They save and exit, and the job is queued again and continues from there. All
machines must see the run folder.
"""

import shlex
from pathlib import Path
from typing import Any, Literal

from ropewalk.core.error import UserError
from ropewalk.recipe.named import find_named
from ropewalk.recipe.spec import Recipe

Scheduler = Literal["slurm", "k8s"]

_STOP_SECONDS = 300
"""Seconds from the scheduler's warning to its kill: one step and one save must fit."""

_SLURM = """#!/bin/bash
# {name} on {nodes} machines of {local} ranks. Add your site's lines (--partition, --account); then: sbatch THIS_FILE
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={local}
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Before the time is over, and before a preemption, this shell (B:) receives SIGTERM.
#SBATCH --signal=B:TERM@{stop}
set -u
cd {folder}
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
# The time that torchrun gives ranks for saving; the default is 30 s.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={grace}

asked=0
task=
pass_on() {{ asked=1; kill -TERM $task 2>/dev/null; }}
trap pass_on TERM USR1
# Run a command to its end: a signal ends the wait, not the command.
follow() {{
  "$@" &
  task=$!
  while :; do
    wait "$task"; code=$?
    kill -0 "$task" 2>/dev/null || break
  done
  if [ "$asked" = 1 ] && [ "$code" != 0 ]; then
    echo "stopped on request (code $code); queued again to continue"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  [ "$code" = 0 ] || exit "$code"
}}

follow srun --nodes=1 --ntasks=1 ropewalk prepare {arguments}
[ "$asked" = 0 ] || {{ scontrol requeue "$SLURM_JOB_ID"; exit 0; }}
follow srun --kill-on-bad-exit=1 torchrun --nnodes={nodes} --nproc-per-node={local} --max-restarts={restarts} \\
  --rdzv-backend=c10d --rdzv-endpoint="$head_node:$port" --rdzv-id="$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}" \\
  --no-python ropewalk train {arguments}
"""

_K8S = """# {name} on {nodes} pods of {local} ranks, for the Kubeflow training operator: kubectl create -f THIS_FILE
# Set claimName to a volume that all pods can write (ReadWriteMany) and that holds the recipe under /work.
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: {name}
spec:
  runPolicy:
    backoffLimit: 1000  # preemptions; torchrun itself ends a job that fails {restarts} times between two preemptions
    cleanPodPolicy: Running
  pytorchReplicaSpecs:
"""

_REPLICA = """    {role}:
      replicas: {replicas}
      restartPolicy: OnFailure
      template:
        spec:
          terminationGracePeriodSeconds: {stop}
          containers:
            - name: pytorch
              image: {image}
              workingDir: /work
              env:
                - {{name: TORCH_ELASTIC_SHUTDOWN_TIMEOUT, value: "{grace}"}}
              command: ["/bin/sh", "-c"]
              args:
                - |
                  set -eu
                  node="${{RANK:-0}}"  # the operator numbers pods, torchrun numbers ranks
                  unset RANK WORLD_SIZE
                  if [ "$node" = 0 ]; then ropewalk prepare {arguments}; fi
                  exec torchrun --nnodes={nodes} --nproc-per-node={local} --node-rank="$node" \\
                    --max-restarts={restarts} --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT" \\
                    --no-python ropewalk train {arguments}
              resources:
                limits: {{nvidia.com/gpu: {local}}}
              volumeMounts:
                - {{name: work, mountPath: /work}}
                - {{name: shm, mountPath: /dev/shm}}
          volumes:
            - name: work
              persistentVolumeClaim: {{claimName: ropewalk}}
            - name: shm
              emptyDir: {{medium: Memory}}
"""


def write_script(
    scheduler: str, recipe: Recipe, *, argument: Path, overrides: list[str], nodes: int, image: str
) -> dict[str, Any]:
    """The script that starts ``recipe`` (read from ``argument``, with these overrides) on ``nodes`` machines.

    Raises UserError where the ranks cannot be divided evenly over the machines, or where the scheduler is not
    supported.
    """
    ranks = recipe.parallel.ranks
    if scheduler not in ("slurm", "k8s"):
        raise UserError(
            f"unknown scheduler {scheduler!r}",
            where="the command line",
            why="scripts are written for slurm and k8s",
            fix="ropewalk launch slurm RECIPE, or start torchrun on every machine yourself (docs/launch.md)",
        )
    if nodes < 1 or ranks % nodes:
        raise UserError(
            f"{ranks} ranks cannot be divided among {nodes} machines",
            where="parallel.ranks and --nodes",
            why="every machine must run the same number of ranks",
            fix=f"a divisor of {ranks} as --nodes, or parallel.ranks={max(nodes, 1) * max(1, ranks // max(nodes, 1))}",
        )
    name = "ropewalk-" + "".join(letter if letter.isalnum() else "-" for letter in Path(recipe.run).name.lower())
    facts = {
        "name": name.strip("-"),
        "nodes": nodes,
        "local": ranks // nodes,
        "restarts": recipe.parallel.restarts,
        "stop": _STOP_SECONDS,
        "grace": _STOP_SECONDS - 30,
        "image": image,
    }
    if scheduler == "slurm":
        arguments = shlex.join([str(argument.resolve() if find_named(argument) == argument else argument), *overrides])
        text = _SLURM.format(**facts, arguments=arguments, folder=shlex.quote(str(Path.cwd())))
    else:
        facts["arguments"] = shlex.join([str(argument), *overrides])
        roles = [("Master", 1), ("Worker", nodes - 1)]
        text = _K8S.format(**facts) + "".join(
            _REPLICA.format(**facts, role=role, replicas=replicas) for role, replicas in roles if replicas
        )
    return {
        "scheduler": scheduler,
        "nodes": nodes,
        "ranks_per_node": ranks // nodes,
        "script": text,
        "text": text.rstrip(),
    }
