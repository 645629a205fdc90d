"""Train one stage on every rank: from the extended model, or the newest intact checkpoint, to the last checkpoint.

Resuming after a kill needs no flag: the same call finds the newest checkpoint. Adam's moments are carried from stage to
stage, because the weights are carried too. The learning rate starts again in each stage.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import torch

from ropewalk.attention.gpu_kernels import use_installed_flash
from ropewalk.checkpoint.load import load_moments, newest, read_facts
from ropewalk.checkpoint.state import TrainState
from ropewalk.core.artifact import read_manifest, write_whole
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.run_folder import RunFolder, StageFolder
from ropewalk.core.seed import seed_for
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.corpus.tokens.same_tokenizer import require_model
from ropewalk.parallel.fsdp import choose_precision
from ropewalk.parallel.mesh import Mesh, make_mesh
from ropewalk.parallel.stop import listen_for_stop
from ropewalk.partition.choose import Sharing, choose_partition
from ropewalk.plan.choose import plan_sharing
from ropewalk.recipe.part_digests import pick_lesson
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stage_rows import open_stage
from ropewalk.recipe.trackers import require_trackers
from ropewalk.shape.read import read_shape
from ropewalk.train.loop import StageContext, run_loop
from ropewalk.train.loss_metrics import LossMetrics, kinds_of
from ropewalk.train.lost_checkpoints import refuse_lost_steps
from ropewalk.train.metrics_log import MetricsLog
from ropewalk.train.optimizer import make_optimizer
from ropewalk.train.prepare_model import build_model_with_loss, choose_savings, prepare_model
from ropewalk.train.resume import go_on, plan_stage
from ropewalk.train.rollback import decide_rollback, go_past, remove_astray
from ropewalk.train.schedule import RATES, Rates
from ropewalk.train.sessions import note_session
from ropewalk.train.spike_guard import is_astray
from ropewalk.train.stop_metric import RETRIEVAL, plan_measure
from ropewalk.train.throughput import make_throughput
from ropewalk.train.trackers import TrackedRun, Trackers
from ropewalk.train.validation import Reader, prepare_validation

Ending = Literal["solved", "limit", "stopped"]


def train_stage(recipe: Recipe, *, stage: int, run: Path, corpus: Path, base: Path | None = None) -> Ending:
    """Train stage number ``stage`` of a run on the built corpus in the folder ``corpus``. Every rank must call it.

    ``base`` is the model folder that the run starts from; validation compares with it.

    Reads ``run/stages/<stage>/extended``, writes checkpoints beside it and metrics to ``run/metrics.jsonl``. Returns
    how the stage ended: ``solved`` (``stop`` was reached), ``limit`` (the last step was reached), or ``stopped`` (a
    signal stopped it, and it was saved).
    """
    with listen_for_stop() as asked:  # from here on, so that a signal while the model is loaded is not lost
        return _train(recipe, stage, run, corpus, base=base, asked=asked)


def _train(
    recipe: Recipe, stage: int, run: Path, corpus: Path, *, base: Path | None, asked: Callable[[], bool]
) -> Ending:
    spec, parallel, folder = recipe.stages[stage], recipe.parallel, RunFolder(run).stage(stage).root
    mesh = make_mesh(parallel.ranks, parallel.context_parallel, replicas=parallel.replicas)
    if mesh.rank == 0:
        require_trackers(recipe.trackers)
    dataset = open_rows(recipe, stage, corpus=corpus, rows=spec.steps * spec.step_rows)
    check_names(spec, dataset, where=f"stages.{stage}")
    if mesh.rank == 0:  # the report reads this file, because it does not open the corpus
        write_whole(StageFolder(folder).mix, json.dumps(dict(dataset.planned)) + "\n")
    extended = StageFolder(folder).extended
    sharing, held = sharing_of(recipe, extended, mesh), open_corpus(corpus)
    require_model(held, extended)
    reader = Reader(mesh, sharing, row_tokens=spec.reach_tokens)
    validation = prepare_validation(recipe, stage, folder=folder, corpus=held, base=base, reader=reader)
    state = _resume(begin_stage(recipe, stage, run=run, mesh=mesh, dataset=dataset), recipe, run, speaks=mesh.rank == 0)
    _announce(sharing, dataset, mesh, stage=stage, compiles=parallel.compiles)
    if mesh.rank == 0 and not state.ended:
        precision = choose_precision(parallel.precision, mesh)
        note_session(recipe, run, stage=stage, step=state.step, precision=precision)
    metrics_log = MetricsLog(RunFolder(run).metrics, writes=mesh.rank == 0)
    measure, kinds = None, kinds_of(recipe.corpus.sources)
    if spec.stop is not None and spec.stop.metric == RETRIEVAL:
        measure = plan_measure(recipe.evaluate, extended, context_tokens=spec.reach_tokens, reader=reader)
    throughput = make_throughput(recipe, stage, shape=read_shape(extended), mesh=mesh, corpus=held)
    while True:
        metrics_log.rewind(stage, state.step)
        if state.ended:
            break
        planned = state.cursor + (spec.steps - state.step) * spec.step_rows
        if planned > dataset.rows:  # after a rollback the stage needs more sequences than were planned
            dataset = open_rows(recipe, stage, corpus=corpus, rows=planned)
        rates = Rates.from_json(state.plan[RATES])
        job = StageContext(
            spec,
            rates,
            spec.step_rows,
            dataset,
            mesh,
            parallel,
            sharing,
            metrics_log,
            folder,
            measure,
            validation,
            kinds,
        )
        with _open_trackers(recipe, state, run, speaks=mesh.rank == 0) as trackers:
            state = run_loop(state, job, asked, throughput=throughput, trackers=trackers)
        if not is_astray(state.recent, guard=spec.guard):
            break
        decide_rollback(state, folder, guard=spec.guard)
        state = _resume(state, recipe, run, speaks=mesh.rank == 0)
    if mesh.rank == 0 and not state.ended:
        say(f"stage {stage} stopped at step {state.step} of {spec.steps}, which is saved")
    return cast(Ending, state.ended or "stopped")


def _open_trackers(recipe: Recipe, state: TrainState, run: Path, *, speaks: bool) -> Trackers:
    """Open the trackers. They count steps over all stages as planned, so a stage that ends early leaves a gap."""
    before = sum(spec.steps for spec in recipe.stages[: state.stage])
    tracked = TrackedRun(run, recipe.to_json(), before + state.step)
    return Trackers(recipe.trackers if speaks else (), tracked, steps_before=before)


def open_rows(recipe: Recipe, stage: int, *, corpus: Path, rows: int) -> Dataset:
    """Return the first ``rows`` sequences of a stage. A larger ``rows`` gives the same sequences and further ones."""
    return open_stage(recipe, stage, open_corpus(corpus), rows=rows)


def check_names(spec: Stage, dataset: Dataset, *, where: str) -> None:
    """Raise UserError where ``stop`` of the stage uses a metric that its training will not have."""
    groups = LossMetrics(dataset.sources, spec.reach_tokens).groups
    metrics = [RETRIEVAL] + [f"{kind}/{group}" for kind in ("loss", "accuracy") for group in groups]
    if spec.stop is not None and spec.stop.metric not in metrics:
        raise UserError(
            f"there is no metric {spec.stop.metric!r}",
            where=f"{where}.stop.metric",
            why="it is none of those that this stage's panels hold",
            fix=f"one of {', '.join(metrics)}",
        )


def begin_stage(recipe: Recipe, stage: int, *, run: Path, mesh: Mesh, dataset: Dataset) -> TrainState:
    """Return the state of a stage before its first step.

    Its ``inputs`` hold all that must be the same when the stage is resumed.
    """
    spec = recipe.stages[stage]
    torch.manual_seed(seed_for("train", recipe.seed, stage, mesh.rank))
    extended = RunFolder(run).extended(stage)
    learner = build_model_with_loss(recipe, stage, extended)
    savings = choose_savings(recipe, stage, extended)
    parallel = recipe.parallel
    prepare_model(
        learner,
        mesh,
        weights=extended,
        savings=savings,
        precision=parallel.precision,
        compiles=parallel.compiles,
    )
    inputs = {
        "model": digest_value(read_manifest(extended)["files"]),
        "data": dataset.digest,
        "stage": digest_value(pick_lesson(recipe, stage)),
        "seed": recipe.seed,
    }
    if spec.lora is not None:  # the export of a checkpoint needs this to merge the adapter
        inputs["lora"] = spec.lora.model_dump(mode="json")
    optimizer = make_optimizer(
        learner,
        weight_decay=spec.weight_decay,
        betas=spec.betas,
        embedding_lr=spec.embedding_lr,
        eight_bit=savings.eight_bit,
    )
    return TrainState(learner, optimizer, stage=stage, inputs=inputs, plan=plan_stage(spec))


def sharing_of(recipe: Recipe, extended: Path, mesh: Mesh) -> Sharing:
    """Return ``plan_sharing`` for the model in ``extended`` on this kind of device."""
    narrow = choose_precision(recipe.parallel.precision, mesh) == "bfloat16"
    return plan_sharing(
        recipe.parallel, read_shape(extended), device=mesh.device.type, element_bytes=2 if narrow else 4
    )


def _announce(sharing: Sharing, dataset: Dataset, mesh: Mesh, *, stage: int, compiles: bool) -> None:
    """Set up the fastest attention kernel that is installed, and print which code runs."""
    newer = use_installed_flash()
    if mesh.rank == 0 and newer:
        say(f"stage {stage}: attention runs {newer}")
    if mesh.rank == 0 and compiles:
        paid = "; on a CPU it hardly pays (docs/parallel.md)" if mesh.device.type == "cpu" else ""
        say(f"stage {stage}: the first step compiles its blocks{paid}")
    if mesh.rank == 0 and mesh.context_ranks > 1:
        choice = choose_partition(dataset.batch(0, 1).document, ranks=mesh.context_ranks, sharing=sharing)
        say(f"stage {stage}, first row: {choice.explain()}")


def _resume(state: TrainState, recipe: Recipe, run: Path, *, speaks: bool) -> TrainState:
    """Resume from the newest checkpoint of this stage.

    If there is none, begin the stage with the optimizer's moments of the stage before, or with fresh ones.
    """
    folder = RunFolder(run).stage(state.stage).root
    remove_astray(folder)
    checkpoint = newest(RunFolder(run).checkpoints(state.stage))
    if checkpoint is not None:
        if speaks:
            say(f"stage {state.stage} goes on from {checkpoint.name}")
        return go_past(go_on(state, checkpoint), folder)
    refuse_lost_steps(recipe, state.stage, run)
    return go_past(carry_moments(state, recipe, run), folder)


def carry_moments(state: TrainState, recipe: Recipe, run: Path) -> TrainState:
    """Return a stage at its first step, with the optimizer's moments of the stage before, if there is one.

    Moments are not carried if one of the two stages trains adapters: the adapters of the stage before are merged, and
    their moments have no meaning for other weights. Raises UserError on every rank where the last checkpoint of the
    stage before is gone.
    """
    spec = recipe.stages[state.stage]
    if state.stage == 0 or not spec.carry_moments or spec.lora or recipe.stages[state.stage - 1].lora:
        return state
    folder = RunFolder(run).checkpoints(state.stage - 1)
    earlier = newest(folder)
    if earlier is None or not read_facts(earlier)["ended"]:
        raise UserError(
            "the optimizer's moments of the stage before are gone",
            where=str(folder),
            why=f"stage {state.stage} goes on with them, and "
            + ("no checkpoint there verifies" if earlier is None else f"{earlier.name} is not the stage's last one"),
            fix=f"put that checkpoint back, or set stages.{state.stage}.carry_moments=false to begin with fresh ones",
        )
    return load_moments(state, earlier)
