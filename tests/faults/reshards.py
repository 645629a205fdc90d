"""Saved on n ranks with context degree n, loaded on m with degree m: the same state to the bit, and the same losses."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from faults.experiment import Experiment
from faults.ground import STEPS, Ground, make, rows_of, train
from ropewalk.checkpoint.state import name_tensors
from ropewalk.core.digest import digest_bytes
from ropewalk.parallel.launch import RankError
from ropewalk.train import resume

HALF = STEPS // 2
LOSS_ROUNDING = 2e-5
"""Largest relative difference of a loss after going on with another number of ranks: another order of sums."""
_plain_load = resume.load_checkpoint


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """Half of the run on n ranks, the rest on m; unguarded, the moments are read by rank and not by name."""
    saved, loaded = map(int, trial.split("-"))
    run = ground.new_run(f"reshard-{trial}")
    train_quietly(ground, run, saved, stop_after=HALF)
    before = _describe(ground, run, saved, spoil=False)
    after = _describe(ground, run, loaded, spoil=not guarded)
    differing = [name for name in before if before[name] != after.get(name)]
    if differing:
        return f"{len(differing)} of {len(before)} tensors differ after loading"
    train_quietly(ground, run, loaded)
    one = ground.straight(parallel={"ranks": 1, "context_parallel": 1}, **QUIET)
    ours, theirs = losses_of(run), losses_of(one)
    worst = max(abs(ours[step] / theirs[step] - 1) for step in theirs)
    return "" if worst <= LOSS_ROUNDING else f"a loss is off by {worst:.1e}"


QUIET = {"checkpoint_steps": HALF, "context_length": 48, "step_tokens": 4 * 48, "tokens": STEPS * 4 * 48}
"""A row of 48 tokens can be cut in 2, 3 and 4."""


def train_quietly(ground: Ground, run: Path, ranks: int, *, stop_after: int = STEPS) -> None:
    """Without the noise, which each rank draws for itself; asked to stop in the step after ``stop_after``."""

    def stop(state: Any) -> None:
        if state.step == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    train(ground, run, make(parallel={"ranks": ranks, "context_parallel": ranks}, **QUIET), before=stop, noisy=False)


def losses_of(run: Path) -> dict[int, float]:
    """Loss by step."""
    return {row.step: row.value for row in rows_of(run) if row.name == "loss/train"}


def _describe(ground: Ground, run: Path, ranks: int, *, spoil: bool) -> dict[str, str]:
    """Digests of all whole tensors as they are loaded on ``ranks`` ranks, and of the counters."""
    found = run / f"digests-{ranks}.json"

    def load(state: Any, checkpoint: Path) -> Any:
        state = _plain_load(state, checkpoint)
        if spoil:
            for moments in state.optimizer.state.values():
                local = moments["exp_avg"].to_local()
                local.copy_(local.flip(0))
        digests = {"figures": str(state.figures())}
        for name, tensor in name_tensors(state).items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            digests[name] = digest_bytes(whole.detach().numpy().tobytes())
        if torch.distributed.get_rank() == 0:
            found.write_text(json.dumps(digests))
        raise RuntimeError("loaded, and that is all")

    resume.load_checkpoint = load
    try:
        train(ground, run, make(parallel={"ranks": ranks, "context_parallel": ranks}, **QUIET))
    except RankError as error:
        assert "that is all" in str(error), error
    finally:
        resume.load_checkpoint = _plain_load
    return dict(json.loads(found.read_text()))


RESHARDS = Experiment(
    name="other ranks, other degree",
    promise=f"every tensor and counter bit-equal after loading; losses within {LOSS_ROUNDING:g} of one rank's",
    control="moments that end up in other places of their shards",
    trials=[f"{saved}-{loaded}" for saved in (1, 2, 3, 4) for loaded in (1, 2, 3, 4)],
    controls=[f"2-{loaded}" for loaded in (1, 2, 3, 4)],
    quick=["2-1", "1-2"],
    quick_controls=["2-1"],
    attempt=attempt,
)
