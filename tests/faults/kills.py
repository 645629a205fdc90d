"""kill -9 at random moments, of a rank, of all, or of the process that started them: the end is the same to the bit."""

import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from faults.experiment import Experiment
from faults.ground import BOTH, CONTEXT, DATA, Ground, compare, make, train
from ropewalk.checkpoint import load as load_module
from ropewalk.core.seed import seed_for
from ropewalk.recipe.spec import Recipe
from ropewalk.train import resume, stage

_MESHES = {"data": DATA, "context": CONTEXT, "both": BOTH}
_FORGOTTEN = ("generators", "moments", "cursor")


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """Up to three kills, each within the time that a whole run takes; then to the end."""
    mesh = trial.partition("-")[0]
    recipe, draw = make(parallel=_MESHES[mesh]), random.Random(seed_for("kills", trial))
    straight = ground.straight(parallel=_MESHES[mesh])
    run = ground.new_run(f"kill-{trial}")
    if not guarded:
        _forget(trial.rpartition("-")[2])
    kills = draw.randint(1, 3) if guarded else 1
    for _ in range(kills):
        victim = draw.choice([*range(recipe.parallel.ranks), "all", "parent"]) if guarded else "all"
        _die(ground, run, recipe, victim, draw.uniform(0, 1.2) if guarded else None)
    if train(ground, run, recipe) != "limit":
        return "it did not come to its end"
    return compare(run, straight)


def attempt_hybrid(ground: Ground, trial: str, guarded: bool) -> str:
    """Two kills of all ranks, each when one more checkpoint stands; recurrent layers are cut over two ranks."""
    hybrid, recipe = ground.with_hybrid(), make(parallel=CONTEXT)
    straight = hybrid.straight(parallel=CONTEXT)
    run = hybrid.new_run(f"kill-{trial}")
    if not guarded:
        _forget(trial.rpartition("-")[2])
    for _ in range(2):
        _die(hybrid, run, recipe, "all", None)
    if not find_checkpoints(run):
        return "it was killed before anything was saved"
    if train(hybrid, run, recipe) != "limit":
        return "it did not come to its end"
    return compare(run, straight)


def _die(ground: Ground, run: Path, recipe: Recipe, victim: int | str, seconds: float | None) -> None:
    """Train in a process of its own until the time is over, or, without one, until one more checkpoint stands.

    The clock starts when all ranks have begun to load; a run takes about a second from there.
    """
    ranks, stood = get_context("fork").Array("i", recipe.parallel.ranks), find_checkpoints(run)

    def work() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        plain_begin = stage.begin_stage

        def begin(*args: Any, **settings: Any) -> Any:
            ranks[torch.distributed.get_rank()] = os.getpid()
            return plain_begin(*args, **settings)

        stage.begin_stage = begin
        train(ground, run, recipe)

    parent = get_context("fork").Process(target=work)
    parent.start()
    _wait_until(lambda: all(ranks) or not parent.is_alive())
    if seconds is None:
        _wait_until(lambda: not find_checkpoints(run) <= stood or not parent.is_alive())
    time.sleep(seconds or 0)
    victims = list(ranks) if victim == "all" else [parent.pid] if victim == "parent" else [ranks[int(victim)]]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    parent.join(timeout=60)
    _wait_until(lambda: not any(map(_runs, ranks)))


def find_checkpoints(run: Path) -> set[str]:
    """The names of what the stage has saved."""
    return {each.name for each in run.glob("stages/0/checkpoints/step-*")}


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, "the trial makes no progress"
        time.sleep(0.005)


def _runs(pid: int) -> bool:
    try:
        return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _forget(what: str) -> None:
    """Resume without a part of the state."""
    whole_load = load_module.load_checkpoint
    if what == "generators":
        load_module.set_random_states = lambda states: None
    elif what == "moments":

        def without_moments(state: Any, checkpoint: Any) -> Any:
            state = whole_load(state, checkpoint)
            for moments in state.optimizer.state.values():
                moments["exp_avg"].zero_()
            return state

        resume.load_checkpoint = without_moments
    else:

        def without_cursor(state: Any, checkpoint: Any) -> Any:
            return dataclasses.replace(whole_load(state, checkpoint), cursor=0)

        resume.load_checkpoint = without_cursor


KILLS = Experiment(
    name="kill -9",
    promise="after up to three kills at random every tensor, generator, counter and row is the same to the bit",
    control="a resume that forgets the generators, the moments or the cursor",
    trials=[f"data-{number}" for number in range(50)],
    controls=[f"data-{number}-{what}" for number, what in enumerate(_FORGOTTEN * 2)],
    quick=["data-4"],
    quick_controls=["data-0-generators"],
    attempt=attempt,
)
CONTEXT_KILLS = Experiment(
    name="kill -9, context parallel",
    promise="the same with rows cut over 2 ranks (10), and with FSDP over 2 data x 2 context ranks (10)",
    control="a resume that forgets the generators, the moments or the cursor",
    trials=[f"{mesh}-{number}" for mesh in ("context", "both") for number in range(10)],
    controls=[f"context-{number}-{what}" for number, what in enumerate(_FORGOTTEN * 2)],
    quick=["both-3"],  # both meshes in one
    quick_controls=["context-0-cursor"],
    attempt=attempt,
)
HYBRID_KILLS = Experiment(
    name="kill -9, hybrid",
    promise="the same with a hybrid cut over 2 ranks, killed twice, each time after one more checkpoint",
    control="a resume that forgets the generators, the moments or the cursor",
    trials=[f"hybrid-{number}" for number in range(5)],
    controls=[f"hybrid-{number}-{what}" for number, what in enumerate(_FORGOTTEN)],
    quick=[],
    quick_controls=[],
    attempt=attempt_hybrid,
)
