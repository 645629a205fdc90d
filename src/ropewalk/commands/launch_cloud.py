"""A task file for SkyPilot, and a driver for a Ray cluster, which `ray job submit` runs.

On Ray the driver takes one bundle of GPUs and CPUs on each of the machines and runs torchrun in it. The ranks are
ropewalk's own, so nothing else of Ray is in the way of their messages; a stop that saved is started again.
"""

import textwrap

from ropewalk.commands.launch_target import GRACE_SECONDS, Target
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count

_SKY_DEVICES = {
    "h100-sxm": "H100",
    "h100-pcie": "H100",
    "h200-sxm": "H200",
    "a100-sxm-40": "A100",
    "a100-sxm-80": "A100-80GB",
    "a100-pcie-80": "A100-80GB",
    "v100-sxm-16": "V100",
    "v100-sxm-32": "V100-32GB",
}
"""SkyPilot's names of devices, by those of plan/devices.csv; another name is given in upper case."""
_SKY = """# {name} on {size}: sky jobs launch THIS_FILE
# /work must be one file system for all machines, with the recipe in it: name a volume or a bucket of yours.
name: {name}
num_nodes: {nodes}
resources:
{accelerators}  cpus: {cpus}+
  memory: {memory_gib}+
  image_id: docker:{image}
  # a stop that saved (75) is continued; wrong input (2) and strict targets (3, 4) are not
  job_recovery: {{max_restarts_on_errors: 0, recover_on_exit_codes: [75]}}
envs:
  TORCH_ELASTIC_SHUTDOWN_TIMEOUT: "{grace}"
volumes:
  /work: ropewalk
run: |
  cd /work
  head_node=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
  if [ "$SKYPILOT_NODE_RANK" = 0 ]; then ropewalk prepare {arguments} --mark-failure || exit $?; fi
  # torchrun would wait for the first machine for 10 minutes only
  ropewalk corpus wait {arguments} || exit $?
{script}
"""
_RAY = '''"""{name} on {size}: ray job submit --working-dir . -- python THIS_FILE

Every machine needs ropewalk, and sees the run folder and the recipe under the same path.
"""

import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

NODES, CPUS, GPUS, PREPARE_CPUS = {nodes}, {cpus}, {gpus}, {prepare_cpus}
PREPARE = {prepare!r}
TRAIN = {train!r}


@ray.remote(max_retries=-1)
def run(command: str) -> int:
    return subprocess.run(["/bin/sh", "-c", command], check=False).returncode


@ray.remote
def name_address() -> str:
    return ray.util.get_node_ip_address()


def main() -> int:
    ray.init()
    if code := ray.get(run.options(num_cpus=PREPARE_CPUS).remote(PREPARE)):
        return code
    bundles = [{{"CPU": CPUS, **({{"GPU": GPUS}} if GPUS else {{}})}}] * NODES
    group = placement_group(bundles, strategy="STRICT_SPREAD")
    ray.get(group.ready())
    places = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node) for node in range(NODES)]
    first = ray.get(name_address.options(num_cpus=0, scheduling_strategy=places[0]).remote())
    while True:
        started = [
            run.options(num_cpus=CPUS, num_gpus=GPUS, scheduling_strategy=place).remote(
                f"export HEAD={{first}} NODE={{node}}\\n{{TRAIN}}"
            )
            for node, place in enumerate(places)
        ]
        codes = ray.get(started)
        for final in (2, 3, 4):  # wrong input; strict targets that are missed or undecided
            if final in codes:
                return final
        if 75 not in codes:  # else stopped and saved; a code below 0 is the signal that ended a shell
            return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
'''


def write_sky(target: Target) -> str:
    """A task file for SkyPilot. Raises UserError where GPUs are needed and the recipe does not name them."""
    if target.gpus and target.device is None:
        raise UserError(
            "it is not known which devices to ask for",
            where="hardware",
            why="SkyPilot takes machines by the name of their devices, and the recipe names none",
            fix=f"hardware='h100-sxm x {target.local}', or parallel.device=cpu",
        )
    named = _SKY_DEVICES.get(target.device or "", (target.device or "").upper())
    script = target.node_command(address="$head_node", index='"$SKYPILOT_NODE_RANK"', id=target.name)
    return _SKY.format(
        name=target.name,
        size=_tell_size(target),
        nodes=target.nodes,
        accelerators=f"  accelerators: {named}:{target.local}\n" if target.gpus else "",
        cpus=target.cpus,
        memory_gib=target.memory_gib,
        image=target.image,
        grace=GRACE_SECONDS,
        arguments=target.arguments,
        script=textwrap.indent(script, "  "),
    )


def write_ray(target: Target) -> str:
    """A driver in Python for a Ray cluster."""
    train = target.node_command(address="$HEAD", index='"$NODE"', id=target.name)
    return _RAY.format(
        name=target.name,
        size=_tell_size(target),
        nodes=target.nodes,
        cpus=target.cpus,
        prepare_cpus=target.prepare_cpus,
        gpus=target.local if target.gpus else 0,
        prepare=f"exec ropewalk prepare {target.arguments}",
        train=f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={GRACE_SECONDS}\nexec {train}",
    )


def _tell_size(target: Target) -> str:
    return f"{format_count(target.nodes, 'machine')} of {format_count(target.local, 'rank')}"
