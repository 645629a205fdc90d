"""What trials stand on: a tiny model, a corpus, training whose random states matter, and undisturbed runs of it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ropewalk.checkpoint.load import newest
from ropewalk.core.digest import digest_bytes, digest_value
from ropewalk.core.record import TIMED, Metric, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.rank_setup import RankSetup
from ropewalk.recipe.spec import Recipe
from ropewalk.train import loop
from ropewalk.train.stage import train_stage
from tiny_hybrid import write_hybrid
from tiny_run import CONTEXT_TOKENS, make_recipe, write_corpus, write_model

CONTEXT, DATA, BOTH = (
    {"ranks": 2, "context_parallel": 2},
    {"ranks": 2, "context_parallel": 1},
    {"ranks": 4, "context_parallel": 2},
)
STEPS = 12
_DROPOUT = 0.1
_plain_step = loop.train_step


@dataclass(frozen=True)
class Ground:
    """A folder with everything made once, and a place for the runs of trials."""

    folder: Path
    model: str = "model"

    def with_hybrid(self) -> "Ground":
        """The same with a model that has recurrent layers, made when first asked for."""
        if not (self.folder / "hybrid").exists():
            write_hybrid(self.folder / "new", self.folder / "base", context_tokens=CONTEXT_TOKENS)
            (self.folder / "new").rename(self.folder / "hybrid")
        return replace(self, model="hybrid")

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    def new_run(self, name: str) -> Path:
        """A fresh run folder with the extended model in place."""
        run = self.folder / "runs" / name
        shutil.rmtree(run, ignore_errors=True)
        return self.give_model(run)

    def give_model(self, run: Path) -> Path:
        """``run`` with the extended model in place."""
        (run / "stages" / "0").mkdir(parents=True)
        (run / "stages" / "0" / "extended").symlink_to(self.folder / self.model / "stages" / "0" / "extended")
        return run

    def straight(self, **changes: Any) -> Path:
        """An undisturbed run of that recipe, made when first asked for."""
        run = self.folder / "straight" / digest_value([self.model, make(**changes).to_json()])
        if not (run / "done").exists():
            shutil.rmtree(run, ignore_errors=True)
            train(self, self.give_model(run), make(**changes), noisy=make(**changes).parallel.ranks > 1)
            (run / "done").touch()
        return run


def make_ground(folder: Path) -> Ground:
    """Model and corpus in ``folder``, unless they are there."""
    torch.set_num_threads(1)
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_model(folder / "model", folder / "tokenizer")
        write_corpus(folder)
        (folder / "made").touch()
    return Ground(folder)


def make(**changes: Any) -> Recipe:
    """Twelve steps with a save at every third and a panel at every fourth."""
    settings = {"tokens": STEPS * 4 * 64, "checkpoint_steps": 3, "log_steps": 4, **changes}
    return make_recipe(**settings)


def train(
    ground: Ground,
    run: Path,
    recipe: Recipe,
    *,
    before: Callable[[Any], None] | None = None,
    change: Callable[[Any, Any], Any] = lambda state, batches: batches,
    noisy: bool = True,
) -> str:
    """Train stage 0, if ``noisy`` with dropout on the embeddings, so that a generator put back wrongly shows.

    On every rank, before each step, ``before(state)`` is called and ``change(state, batches)`` gives what it takes.
    Returns how the stage ended.
    """

    def step(state: Any, batches: Any, **settings: Any) -> Any:
        if before is not None:
            before(state)
        embedding = state.model.causal.get_input_embeddings()
        rate = _DROPOUT if noisy else 0.0
        noise = embedding.register_forward_hook(lambda module, given, out: torch.dropout(out, rate, train=True))
        try:
            return _plain_step(state, change(state, batches), **settings)
        finally:
            noise.remove()

    loop.train_step = step
    ranks, setup = recipe.parallel.ranks, RankSetup("cpu")
    return run_ranks(lambda: train_stage(recipe, stage=0, run=run, corpus=ground.corpus), ranks, setup=setup)[0]


def compare(run: Path, straight: Path) -> str:
    """What differs in two runs' last checkpoints (each tensor, generator and counter) and rows; empty if nothing."""
    ours, theirs = contents(run), contents(straight)
    differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if differing:
        return f"{len(differing)} of {len(theirs)} tensors and figures differ, {differing[0]} first"
    return "" if rows_of(run) == rows_of(straight) else "metrics.jsonl differs"


def contents(run: Path) -> dict[str, Any]:
    """All of the last checkpoint. Headers of safetensors keep no order of keys, so files are not compared."""
    checkpoint = newest(RunFolder(run).checkpoints(0))
    assert checkpoint is not None, "there is no whole checkpoint"
    found: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    for path in checkpoint.glob("*.safetensors"):
        for name, value in load_file(path).items():
            found[f"{path.name}/{name}"] = digest_bytes(value.numpy().tobytes())
    return found


def rows_of(run: Path) -> list[Metric]:
    """What training wrote, but for the speeds."""
    return [row for row in read_metrics(run / "metrics.jsonl") if row.name not in TIMED]
