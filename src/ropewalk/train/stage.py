"""One stage on every rank: from the extended model, or the newest whole checkpoint, to the stage's last checkpoint.

Going on after a kill needs no flag: the same call finds where it was. Adam's moments go on from stage to stage, because
the weights do; the learning rate begins anew.
"""

from pathlib import Path
from typing import Literal, cast

import torch

from ropewalk.attention.flash import use_installed_flash
from ropewalk.checkpoint.load import load, load_moments, newest
from ropewalk.checkpoint.state import TrainState
from ropewalk.core.artifact import read_manifest
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.seed import seed_for
from ropewalk.corpus.feed import Feed, open_feed
from ropewalk.corpus.folder import open_corpus
from ropewalk.model.extend import read_former
from ropewalk.model.learner import Learner
from ropewalk.model.load import load_model
from ropewalk.parallel.fsdp import choose_precision
from ropewalk.parallel.mesh import Mesh, make_mesh
from ropewalk.partition.choose import Sharing, choose_partition, make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.recipe.spec import Recipe, Stage
from ropewalk.shape.read import read_shape
from ropewalk.train.journal import Journal
from ropewalk.train.loop import StageJob, run_loop
from ropewalk.train.measure import RETRIEVAL, plan_measure
from ropewalk.train.optimizer import make_optimizer
from ropewalk.train.place import choose_savings, place_learner
from ropewalk.train.tally import Tally, kinds_of

Ending = Literal["solved", "limit", "stopped"]


def train_stage(recipe: Recipe, *, stage: int, run: Path, corpus: Path) -> Ending:
    """Train stage number ``stage`` of a run on the folder that ``corpus`` was built into; every rank calls it.

    Reads ``run/stages/<stage>/extended``, writes checkpoints beside it and rows to ``run/rows.jsonl``. Returns how it
    came to its end: ``until`` was reached, or the last step; or that SIGTERM stopped it, saved, before its end.
    """
    spec, parallel = recipe.stages[stage], recipe.parallel
    mesh = make_mesh(parallel.ranks, parallel.context)
    feed = open_feed(
        open_corpus(corpus),
        mix=spec.mix or recipe.corpus.mix,
        context_tokens=spec.context,
        rows=spec.steps * spec.step_rows,
        seed=recipe.seed,
        stage=stage,
        max_repeats=recipe.corpus.max_repeats,
    )
    check_names(spec, feed, where=f"stages.{stage}")
    state = _resume(_begin(recipe, stage, run=run, mesh=mesh, feed=feed), run, speaks=mesh.rank == 0)
    journal = Journal(run / "rows.jsonl", writes=mesh.rank == 0)
    journal.rewind(stage, state.step)
    if not state.ended:
        if (newer := use_installed_flash()) and mesh.rank == 0:
            say(f"stage {stage}: attention runs {newer}")
        sharing = plan_sharing(recipe, extended_of(run, stage), mesh)
        if mesh.rank == 0 and mesh.context_ranks > 1:
            choice = choose_partition(feed.batch(0, 1).document, ranks=mesh.context_ranks, sharing=sharing)
            say(f"stage {stage}, first row: {choice.explain()}")
        gated = spec.until is not None and spec.until.metric == RETRIEVAL
        job = StageJob(
            spec=spec,
            steps=spec.steps,
            rows=spec.step_rows,
            feed=feed,
            mesh=mesh,
            sharing=sharing,
            journal=journal,
            checkpoints=checkpoints_of(run, stage),
            measure=plan_measure(recipe.evaluate, extended_of(run, stage), context_tokens=spec.reach_tokens)
            if gated
            else None,
            kinds=kinds_of(recipe.corpus.sources),
        )
        state = run_loop(state, job)
    return cast(Ending, state.ended or "stopped")


def check_names(spec: Stage, feed: Feed, *, where: str) -> None:
    """Raise UserError where the stage waits for a metric that its training will not have."""
    groups = Tally(feed.sources, spec.reach_tokens).groups
    metrics = [RETRIEVAL] + [f"{kind}/{group}" for kind in ("loss", "accuracy") for group in groups]
    if spec.until is not None and spec.until.metric not in metrics:
        raise UserError(
            f"there is no metric {spec.until.metric!r}",
            where=f"{where}.until.metric",
            why="it is none of those that this stage's panels hold",
            fix=f"one of {', '.join(metrics)}",
        )


def checkpoints_of(run: Path, stage: int) -> Path:
    """Where a stage's checkpoints lie."""
    return run / "stages" / str(stage) / "checkpoints"


def extended_of(run: Path, stage: int) -> Path:
    """The model folder that a stage starts from."""
    return run / "stages" / str(stage) / "extended"


def _begin(recipe: Recipe, stage: int, *, run: Path, mesh: Mesh, feed: Feed) -> TrainState:
    """The stage before its first step. What must agree when it is resumed stands in ``inputs``."""
    spec = recipe.stages[stage]
    torch.manual_seed(seed_for("train", recipe.seed, stage, mesh.rank))
    extended = extended_of(run, stage)
    causal = load_model(extended, former=read_former(extended) if spec.anneal_steps else None)
    learner = Learner(causal, chunk_tokens=recipe.parallel.loss_chunk_tokens, z_loss=spec.z_loss).train()
    savings = choose_savings(recipe, stage, extended)
    place_learner(learner, mesh, savings=savings, precision=recipe.parallel.precision)
    inputs = {
        "model": digest_value(read_manifest(extended)["files"]),
        "data": feed.digest,
        "stage": digest_value(spec.model_dump(mode="json")),
        "seed": recipe.seed,
    }
    optimizer = make_optimizer(
        learner, weight_decay=spec.weight_decay, betas=spec.betas, embedding_lr=spec.embedding_lr
    )
    return TrainState(learner, optimizer, stage=stage, inputs=inputs)


def plan_sharing(recipe: Recipe, extended: Path, mesh: Mesh) -> Sharing:
    """How a batch may be shared by the context ranks, priced for the model on this kind of device."""
    shape, parallel = read_shape(extended), recipe.parallel
    narrow = choose_precision(parallel.precision, mesh) == "bfloat16"
    return make_sharing(
        Heads(shape.heads, shape.kv_heads, shape.head_dim),
        device=mesh.device.type,
        element_bytes=2 if narrow else 4,
        layout=parallel.layout,
        exchange=parallel.exchange,
        head_ranks=None if parallel.head_ranks == "auto" else parallel.head_ranks,
    )


def _resume(state: TrainState, run: Path, *, speaks: bool) -> TrainState:
    """From the newest checkpoint of this stage, else with the optimizer's moments of the stage before, else fresh."""
    checkpoint = newest(checkpoints_of(run, state.stage))
    if checkpoint is not None:
        if speaks:
            say(f"stage {state.stage} goes on from {checkpoint.name}")
        return load(state, checkpoint)
    earlier = newest(checkpoints_of(run, state.stage - 1)) if state.stage else None
    return load_moments(state, earlier) if earlier is not None else state
