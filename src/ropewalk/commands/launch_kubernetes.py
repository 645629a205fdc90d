"""Two files for Kubernetes: a plain Indexed Job, which needs no operator, and a TrainJob of Kubeflow Trainer (v2).

Both prepare the corpus in a Job of CPUs, and hold no GPU before it is complete where something can start them in order:
a JobSet does so for the TrainJob; pods of the plain Job wait in an init container. In both, exit code 2 (wrong input)
and strict targets (3, 4) fail the job at once; 75 (stopped and saved) and a disruption start the pod again without
limit. Wrong input in the preparation also fails the plain Job: a file beside the run folder tells its waiting pods
(commands/wait_corpus.py).
"""

import textwrap
from dataclasses import replace

from ropewalk.commands.launch_target import GRACE_SECONDS, STOP_SECONDS, Target
from ropewalk.core.quantity import format_count

_TRIES = 6
"""Pods that may fail for another reason than a disruption, of a job that does not end by itself."""
_SHARED_MEMORY_GIB = 16
_WAIT_SECONDS = 86400
"""Seconds that the pods of a plain Job wait for the corpus: a preparation may also be killed, or never start."""
_HEAD = """# {name} on {size}. {use}
# Set claimName to a volume that all pods can write (ReadWriteMany), with the recipe in it. The image is {image}:
# --image names another; the Dockerfile of ropewalk's repository builds it.
"""
_JOB = """apiVersion: batch/v1
kind: Job
metadata:
  name: {name}-prepare
spec:
  completions: 1
  parallelism: 1
{policy}
  template:
    spec:
{prepare_pod}
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    batch.kubernetes.io/job-name: {name}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completions: {nodes}
  parallelism: {nodes}
  completionMode: Indexed
{policy}
      - action: FailJob
        onExitCodes: {{containerName: wait, operator: In, values: [2]}}
  template:
    spec:
      subdomain: {name}
      initContainers:
        - name: wait
          image: {image}
          workingDir: /work
          command: ["/bin/sh", "-c"]
          args:
            - |
              # the longest wait, in seconds
              exec ropewalk corpus wait {arguments} --seconds {seconds}
          resources:
            requests: {{cpu: "1", memory: 1Gi}}
            limits: {{cpu: "1", memory: 1Gi}}
          volumeMounts:
            - {{name: work, mountPath: /work}}
{train_pod}
"""
_TRAIN_JOB = """apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainingRuntime
metadata:
  name: {name}
spec:
  mlPolicy:
    numNodes: {nodes}
    torch:
      numProcPerNode: {local}
  template:
    spec:
      replicatedJobs:
        - name: prepare
          replicas: 1
          template:
            spec:
              completions: 1
              parallelism: 1
{prepare_policy}
              template:
                spec:
{prepare_pod}
        - name: node
          dependsOn:
            - name: prepare
              status: Complete
          template:
            metadata:
              labels:
                trainer.kubeflow.org/trainjob-ancestor-step: trainer
            spec:
{node_policy}
              template:
                spec:
{train_pod}
---
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata:
  name: {name}
spec:
  runtimeRef:
    apiGroup: trainer.kubeflow.org
    kind: TrainingRuntime
    name: {name}
  trainer:
    numNodes: {nodes}
    numProcPerNode: {local}
"""
_POLICY = """backoffLimit: {tries}
podFailurePolicy:
  rules:
    # wrong input, or strict targets that are missed or undecided: no other try
    - action: FailJob
      onExitCodes: {{containerName: {container}, operator: In, values: [2, 3, 4]}}
    # stopped and saved: starts again, and no try is counted
    - action: Ignore
      onExitCodes: {{containerName: {container}, operator: In, values: [75]}}
    # the machine was taken away: the same
    - action: Ignore
      onPodConditions:
        - {{type: DisruptionTarget, status: "True"}}
"""
_POD = """restartPolicy: Never
terminationGracePeriodSeconds: {stop}
containers:
  - name: {container}
    image: {image}
    workingDir: /work
    env:
      - {{name: TORCH_ELASTIC_SHUTDOWN_TIMEOUT, value: "{grace}"}}
    command: ["/bin/sh", "-c"]
    args:
      - |
{script}
    resources:
      requests: {resources}
      limits: {resources}
    volumeMounts:
      - {{name: work, mountPath: /work}}
      - {{name: shm, mountPath: /dev/shm}}
volumes:
  - name: work
    persistentVolumeClaim: {{claimName: ropewalk}}
  - name: shm
    emptyDir: {{medium: Memory, sizeLimit: {shared}Gi}}
"""


def write_job(target: Target) -> str:
    """A preparing Job, a headless Service, and an Indexed Job whose pods wait for the corpus: one file."""
    target = _escape(target)
    held = "GPUs" if target.gpus else "processors"
    use = (
        f"kubectl apply -f THIS_FILE\n# Waiting pods hold {held}: for long preparations apply the first document alone."
    )
    script = target.node_command(
        address=f"{target.name}-0.{target.name}", index='"$JOB_COMPLETION_INDEX"', id=target.name
    )
    prepare = f"exec ropewalk prepare {target.arguments} --mark-failure"
    return _write_head(target, use) + _JOB.format(
        name=target.name,
        nodes=target.nodes,
        image=target.image,
        arguments=target.arguments,
        seconds=_WAIT_SECONDS,
        policy=_indent(_POLICY.format(container="node", tries=_TRIES * target.nodes), 2),
        prepare_pod=_indent(_write_pod(target, prepare, prepares=True), 6),
        train_pod=_indent(_write_pod(target, f"exec {script}"), 6),
    )


def write_train_job(target: Target) -> str:
    """A TrainingRuntime with the preparation before the training, and the TrainJob that uses it: one file."""
    target = _escape(target)
    use = "kubectl apply -f THIS_FILE"
    script = target.node_command(address='"$PET_MASTER_ADDR"', index='"$PET_NODE_RANK"', id=target.name)
    # The operator gives torchrun's options in variables too; those of the command line hold.
    return _write_head(target, use) + _TRAIN_JOB.format(
        name=target.name,
        nodes=target.nodes,
        local=target.local,
        prepare_policy=_indent(_POLICY.format(container="node", tries=_TRIES), 14),
        node_policy=_indent(_POLICY.format(container="node", tries=_TRIES * target.nodes), 14),
        prepare_pod=_indent(_write_pod(target, f"exec ropewalk prepare {target.arguments}", prepares=True), 18),
        train_pod=_indent(_write_pod(target, f"exec {script}"), 18),
    )


def _write_head(target: Target, use: str) -> str:
    size = f"{format_count(target.nodes, 'pod')} of {format_count(target.local, 'rank')}"
    return _HEAD.format(name=target.name, size=size, use=use, image=target.image)


def _write_pod(target: Target, script: str, *, prepares: bool = False) -> str:
    """The spec of a pod, indented by nothing. Its container is named ``node``, as Kubeflow's is."""
    cpus, memory_gib = (target.prepare_cpus, target.prepare_gib) if prepares else (target.cpus, target.memory_gib)
    held = {"cpu": f'"{cpus}"', "memory": f"{memory_gib}Gi"}
    held |= {"nvidia.com/gpu": f'"{target.local}"'} if target.gpus and not prepares else {}
    return _POD.format(
        container="node",
        image=target.image,
        stop=STOP_SECONDS,
        grace=GRACE_SECONDS,
        script=textwrap.indent(script, " " * 8),
        resources="{" + ", ".join(f"{key}: {value}" for key, value in held.items()) + "}",
        shared=min(_SHARED_MEMORY_GIB, max(1, memory_gib // 4)),
    )


def _escape(target: Target) -> Target:
    """Kubernetes replaces ``$(NAME)`` and ``$$`` in arguments before a shell reads them; ``$$`` stays a ``$``."""
    return replace(target, arguments=target.arguments.replace("$", "$$"))


def _indent(text: str, spaces: int) -> str:
    return textwrap.indent(text.rstrip("\n"), " " * spaces)
