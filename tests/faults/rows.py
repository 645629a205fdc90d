"""Every token of every planned row is trained on once, over three resumes on other numbers of ranks.

What counts is what the weights have seen: the batches of each step, as the last attempt took it that the next one went
on from, written down by every rank as it takes them.
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch.distributed as dist

from faults.experiment import Experiment
from faults.ground import STEPS, Ground, make, train
from ropewalk.core.seed import seed_for
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.parallel.launch import RankError
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.train import resume

_MESHES = [
    {"ranks": 2, "context_parallel": 2},
    {"ranks": 1, "context_parallel": 1},
    {"ranks": 4, "context_parallel": 2},
    {"ranks": 3, "context_parallel": 1},
]


def attempt(ground: Ground, trial: str, guarded: bool) -> str:
    """Killed three times at random steps, each time to go on with other ranks."""
    draw, run = random.Random(seed_for("rows", trial)), ground.new_run(f"rows-{trial}")
    if not guarded:
        _count_from_nothing()
    for attempt_number in range(4):
        mesh = _MESHES[(attempt_number + int(trial)) % len(_MESHES)]
        last = STEPS if attempt_number == 3 else draw.randrange(3 * attempt_number + 2, 3 * attempt_number + 5)
        try:
            _train_and_record(ground, run, mesh, attempt_number, last)
        except RankError as error:
            assert "far enough" in str(error), error
    return _judge(ground, run)


def _train_and_record(ground: Ground, run: Path, mesh: dict[str, int], attempt_number: int, last: int) -> None:
    def change(state: Any, batches: Any) -> Any:
        if state.step == last:
            raise RuntimeError("far enough")
        counted: Counter[tuple[int, int, int, float]] = Counter()
        for micro in batches.micro:
            fields = (micro.source, micro.positions, micro.tokens, micro.weights)
            columns = zip(*(field.tolist() for field in fields), strict=True)
            counted.update(column for column in columns if column[0] >= 0)
        name = f"seen-{state.step:03}-{attempt_number}-{dist.get_rank()}.json"
        (run / name).write_text(json.dumps([[*key, count] for key, count in sorted(counted.items())]))
        return batches

    train(ground, run, make(parallel=mesh, checkpoint_steps=2), change=change, noisy=False)


def _judge(ground: Ground, run: Path) -> str:
    """Against the feed itself, read row by row."""
    recipe = make(parallel=_MESHES[0])
    spec = recipe.stages[0]
    dataset = open_stage(recipe, 0, open_corpus(ground.corpus))
    for step in range(STEPS):
        attempts = {path.name.split("-")[2] for path in run.glob(f"seen-{step:03}-*.json")}
        trained: Counter[tuple[float, ...]] = Counter()
        for path in run.glob(f"seen-{step:03}-{max(attempts)}-*.json"):
            for *key, count in json.loads(path.read_text()):
                trained[tuple(key)] += count
        if trained != _expect(dataset, step * spec.step_sequences, spec.step_sequences):
            first = step * spec.step_sequences
            return f"step {step} saw other tokens than sequences {first} to {first + spec.step_sequences - 1}"
    return ""


def _expect(dataset: Dataset, first: int, rows: int) -> Counter[tuple[float, ...]]:
    batch = dataset.batch(first, rows)
    fields = (batch.source, batch.positions, batch.tokens, batch.weights)
    columns = zip(*(field.reshape(-1).tolist() for field in fields), strict=True)
    return Counter(column for column in columns if column[0] >= 0)


def _count_from_nothing() -> None:
    """Resume as a loader does that knows no cursor."""
    import dataclasses

    plain_load = resume.load_checkpoint
    resume.load_checkpoint = lambda state, checkpoint: dataclasses.replace(plain_load(state, checkpoint), cursor=0)


ROWS = Experiment(
    name="data over three resumes",
    promise="each step trains on the tokens of its rows, each once, whatever the ranks were",
    control="a resume that does not know its cursor",
    trials=[str(number) for number in range(8)],
    controls=["0", "1", "2", "3"],
    quick=["2"],
    quick_controls=["1"],
    attempt=attempt,
)
