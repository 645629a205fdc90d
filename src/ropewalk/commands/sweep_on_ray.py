"""The cells of a study on a Ray cluster: each task runs ``ropewalk sweep`` on its machine, and they share the cells.

A cell is held by the process that does it (claim.py), so nothing has to be handed out, and a task that is lost leaves
its cell to the others or to the next start. Each task is a process of its own: ranks are forked, and a worker of Ray
has threads that a fork would not survive.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ropewalk.core.error import STOPPED_CODE, UserError
from ropewalk.core.progress import say
from ropewalk.core.ray_cluster import start_ray
from ropewalk.parallel.stop import Stopped
from ropewalk.recipe.sweep import RayTasks

_TAIL_LETTERS = 2000


def sweep_on_ray(path: Path, overrides: Sequence[str], spec: RayTasks) -> None:
    """Do all cells of a study in ``spec.tasks`` tasks, and return when every task has ended.

    Raises the UserError of a task, Stopped for one that was asked to stop and has saved, and RuntimeError with its last
    words for any other end. The other tasks are then stopped; what they have saved is continued by the next start.
    """
    ray = start_ray("ray", instead="ray=null, and start the command on each machine")
    work = ray.remote(num_cpus=spec.cpus, num_gpus=spec.gpus, max_retries=0)(run_task)
    # `ray=null` comes last: the task does cells and starts no tasks.
    command = [sys.executable, "-m", "ropewalk", "sweep", str(path), *overrides, "ray=null", "--json"]
    running = [work.remote(command, str(Path.cwd())) for _ in range(spec.tasks)]
    say(f"tasks on Ray: {spec.tasks}, cores of each: {spec.cpus}, GPUs of each: {spec.gpus}")
    try:
        while running:
            (done, *_), running = ray.wait(running, num_returns=1)
            _raise(ray.get(done))
    finally:
        for task in running:
            ray.cancel(task)


def run_task(command: list[str], folder: str) -> dict[str, Any]:
    """Run ``command`` in ``folder``: its exit code, its last line of output, and the end of what it said.

    Called by a worker of Ray.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    last = done.stdout.strip().rpartition("\n")[2]  # whole: an error may name many keys, and half of it is no JSON
    return {"code": done.returncode, "output": last, "said": done.stderr[-_TAIL_LETTERS:]}


def _raise(ended: dict[str, Any]) -> None:
    if not ended["code"]:
        return
    if ended["code"] == STOPPED_CODE:
        raise Stopped
    if ended["output"].startswith('{"error"'):
        raise UserError(**json.loads(ended["output"])["error"])
    raise RuntimeError(f"a task on Ray ended with code {ended['code']}: {ended['said']}")
