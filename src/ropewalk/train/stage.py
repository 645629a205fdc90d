"""Train one stage on every rank: from the extended model, or the newest intact checkpoint, to the last checkpoint.

Resuming after a kill needs no flag: the same call finds the newest checkpoint. Adam's moments are carried from stage to
stage, because the weights are carried too. The learning rate starts again in each stage.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import torch

from ropewalk.attention.choose_kernel import Demand, describe_kernel
from ropewalk.attention.gpu_kernels import settle_cudnn, use_installed_flash
from ropewalk.checkpoint.load import load_moments, newest, read_facts
from ropewalk.checkpoint.state import TrainState, name_frozen
from ropewalk.core.artifact import read_manifest, write_whole
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.record import read_metrics
from ropewalk.core.seed import seed_for
from ropewalk.core.strict_json import spell_json
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.corpus.tokens.same_tokenizer import require_model
from ropewalk.evaluate.study_fit import read_study_fit
from ropewalk.model.fusion import choose_fusion, describe_fusion
from ropewalk.model.recurrent_layers import name_recurrent
from ropewalk.parallel.measure_rates import measure_rig
from ropewalk.parallel.stop import listen_for_stop
from ropewalk.partition.choose import choose_partition
from ropewalk.plan.named_hardware import compare_hardware
from ropewalk.recipe.expert_training import refuse_misfits
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.recipe.trackers import require_trackers
from ropewalk.recurrence import describe_recurrent_kernels
from ropewalk.shape.families import require_row
from ropewalk.train.loop import Monitor, run_loop
from ropewalk.train.loss_metrics import LossMetrics, kinds_of
from ropewalk.train.lost_checkpoints import refuse_lost_steps
from ropewalk.train.metrics_log import MetricsLog
from ropewalk.train.mix_guard import make_guard
from ropewalk.train.optimizer import make_optimizer
from ropewalk.train.prepare_model import build_model_with_loss, prepare_model
from ropewalk.train.resume import describe_stage_plan, go_on
from ropewalk.train.rollback import decide_rollback, go_past, remove_astray
from ropewalk.train.sessions import note_session
from ropewalk.train.spike_guard import is_astray
from ropewalk.train.stage_context import StageContext, make_context
from ropewalk.train.stop_metric import RETRIEVAL, plan_measure
from ropewalk.train.throughput import Throughput, forecast_later_stages
from ropewalk.train.trackers import TrackedRun, Trackers
from ropewalk.train.validation import judge_validations, make_reader, prepare_validation

Ending = Literal["solved", "limit", "stopped"]


def train_stage(recipe: Recipe, *, stage: int, run: Path, corpus: Path, base: Path | None = None) -> Ending:
    """Train stage number ``stage`` of a run on the built corpus in the folder ``corpus``. Every rank must call it.

    ``base`` is the model folder that the run starts from; validation compares with it.

    Reads ``run/stages/<stage>/extended``, writes checkpoints beside it and metrics to ``run/metrics.jsonl``. Returns
    how the stage ended: ``solved`` (``stop`` was reached), ``limit`` (the last step was reached), or ``stopped`` (a
    signal stopped it, and it was saved).
    """
    with listen_for_stop() as asked:  # from here on, so that a signal while the model is loaded is not lost
        context, built = make_context(recipe, stage, run=run), open_corpus(corpus)
        if context.is_first_rank:
            require_trackers(recipe.trackers)
        dataset = open_stage(recipe, stage, built)
        kinds = kinds_of(recipe.corpus.sources)
        check_names(context.spec, LossMetrics(dataset.sources, context.spec.reach_tokens, kinds), stage=stage)
        if context.is_first_rank:  # the report reads this file, because it does not open the corpus
            write_whole(context.folder.mix, spell_json(dict(dataset.planned)) + "\n")
        require_model(built, context.folder.extended)
        validation = prepare_validation(context, recipe.evaluate, corpus=built, base=base)
        state = _resume(begin_stage(context, dataset), context)
        _announce(context, dataset)
        shape = context.shape
        rig = measure_rig(
            context.mesh,
            context.precision,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            context_tokens=context.spec.context_length,
        )
        if context.is_first_rank and not state.ended:
            if (told := compare_hardware(recipe, rig.device)) is not None:
                say(f"stage {stage}: {told}")
            note_session(recipe, run, context, step=state.step, rig=rig)
        retrieval = None
        if context.spec.stop is not None and context.spec.stop.metric == RETRIEVAL:
            retrieval = plan_measure(recipe.evaluate, context.folder.extended, reader=make_reader(context))
        monitor = Monitor(
            metrics_log=MetricsLog(context.metrics, writes=context.is_first_rank),
            throughput=Throughput(shape, rig, forecast_later_stages(recipe, stage, shape, built), context.spec.lora),
            groups=kinds,
            validation=validation,
            retrieval=retrieval,
            guard=make_guard(read_study_fit(recipe.mix_study), recipe, stage) if context.is_first_rank else None,
        )
        state = _train(recipe, state, context, built, dataset, monitor, asked)
    if context.is_first_rank and not state.ended:
        say(f"stage {stage} stopped at step {state.step} of {context.spec.steps}, which is saved")
    elif context.is_first_rank and validation is not None:
        for line in judge_validations(read_metrics(context.metrics), stage=stage, steps=validation.steps):
            say(line)
    return cast(Ending, state.ended or "stopped")


def _train(
    recipe: Recipe,
    state: TrainState,
    context: StageContext,
    corpus: Corpus,
    dataset: Dataset,
    monitor: Monitor,
    asked: Callable[[], bool],
) -> TrainState:
    """Run the loop, and again after each rollback; return the state at the end."""
    spec = context.spec
    while True:
        monitor.metrics_log.rewind(context.number, state.step)
        if state.ended:
            return state
        planned = state.cursor + (spec.steps - state.step) * spec.step_sequences
        if planned > dataset.sequences:  # after a rollback the stage needs more sequences than were planned
            dataset = open_stage(recipe, context.number, corpus, sequences=planned)
        with _open_trackers(recipe, state, context) as trackers:
            state = run_loop(state, context, dataset, monitor, asked, trackers=trackers)
        if not is_astray(state.recent, guard=spec.guard):
            return state
        decide_rollback(state, context.folder, guard=spec.guard)
        state = _resume(state, context)


def _open_trackers(recipe: Recipe, state: TrainState, context: StageContext) -> Trackers:
    """Open the trackers. They count steps over all stages as planned, so a stage that ends early leaves a gap."""
    before = sum(spec.steps for spec in recipe.stages[: state.stage])
    tracked = TrackedRun(context.metrics.parent, recipe.to_json(), before + state.step)
    return Trackers(recipe.trackers if context.is_first_rank else (), tracked, steps_before=before)


def check_names(spec: Stage, loss_metrics: LossMetrics, *, stage: int) -> None:
    """Raise UserError where ``stop`` of the stage uses a metric that its training will not have."""
    metrics = [RETRIEVAL] + [f"{kind}/{group}" for kind in ("loss", "accuracy") for group in loss_metrics.averaged]
    if spec.stop is not None and spec.stop.saturated is None and spec.stop.metric not in metrics:
        raise UserError(
            f"there is no metric {spec.stop.metric!r}",
            where=f"stages.{stage}.stop.metric",
            why="it is not one of the averaged metrics of this stage",
            fix=f"one of {', '.join(metrics)}",
        )


def begin_stage(context: StageContext, dataset: Dataset) -> TrainState:
    """Return the state of a stage before its first step.

    Its ``inputs`` hold all that must be the same when the stage is resumed.
    """
    spec, parallel, extended = context.spec, context.parallel, context.folder.extended
    refuse_misfits(spec.experts, parallel.mlp_tile_tokens, context.shape)
    torch.manual_seed(seed_for("train", context.seed, context.number, context.mesh.rank))
    learner = build_model_with_loss(
        extended,
        spec,
        chunk_tokens=parallel.asked_loss_tokens,
        adapter_seed=seed_for("lora", context.seed, context.number),
    )
    prepare_model(
        learner,
        context.mesh,
        weights=extended,
        savings=context.savings,
        precision=parallel.precision,
        fusion=choose_fusion(parallel, context.shape, context.mesh.device),
    )
    inputs = {
        "model": digest_value(read_manifest(extended)["files"]),
        "data": dataset.digest,
        "stage": context.settings_digest,
        "seed": context.seed,
    }
    if spec.lora is not None:  # the export of a checkpoint needs this to merge the adapter
        inputs["lora"] = spec.lora.model_dump(mode="json")
    elif frozen := name_frozen(learner):  # and this, to take them from the extended model
        inputs["frozen"] = frozen
    optimizer = make_optimizer(
        learner,
        weight_decay=spec.weight_decay,
        betas=spec.betas,
        embedding_lr=spec.embedding_lr,
        eight_bit=context.savings.eight_bit,
        begins_with=name_recurrent(learner.causal) if spec.experimental is not None else None,
        moments_kernel=parallel.moments_kernel,
    )
    return TrainState(learner, optimizer, stage=context.number, inputs=inputs, plan=describe_stage_plan(spec))


def _announce(context: StageContext, dataset: Dataset) -> None:
    """Set up the fastest attention kernel that is installed, and print which code runs."""
    mesh, stage = context.mesh, context.number
    told = settle_kernels(context)
    if not context.is_first_rank:
        return
    if told is not None:
        say(f"stage {stage}: attention runs in {told}")
    if (told := describe_fusion(choose_fusion(context.parallel, context.shape, mesh.device), mesh.device)) is not None:
        say(f"stage {stage}: {told}")
    if context.shape.recurrent is not None:
        dtype = getattr(torch, context.precision)
        if (told := describe_recurrent_kernels(context.shape.recurrent, dtype, mesh.device)) is not None:
            say(f"stage {stage}: {told}")
    if context.spec.lora is not None and context.shape.experts is not None:
        say(f"stage {stage}: experts and routers get no adapters and stay frozen (docs/experts.md)")
    if mesh.context_ranks > 1:
        choice = choose_partition(dataset.batch(0, 1).document, ranks=mesh.context_ranks, sharing=context.sharing)
        say(f"stage {stage}, first sequence: {choice.explain()}")


def settle_kernels(context: StageContext) -> str | None:
    """Put the attention kernels in place that a stage on a GPU trains with; which these are, None on a CPU."""
    device, shape, dtype = context.mesh.device, context.shape, getattr(torch, context.precision)
    use_installed_flash(device)
    settle_cudnn(device, dtype, shape.head_dim)
    if device.type != "cuda" or not shape.attention_layers:
        return None
    bent = require_row(shape.architecture).score_cap or any(position.bias for position in shape.positions)
    kernels = {
        position.window_tokens is not None: describe_kernel(
            Demand("cuda", dtype, shape.heads_of(layer)[1], position.window_tokens is not None, soft_cap=bent)
        )
        for layer, position in enumerate(shape.positions)
        if position.mixer is None
    }
    if len(set(kernels.values())) == 1:
        return next(iter(kernels.values()))
    return f"{kernels[False]}; layers with a window in {kernels[True]}"


def _resume(state: TrainState, context: StageContext) -> TrainState:
    """Resume from the newest checkpoint of this stage.

    If there is none, begin the stage with the optimizer's moments of the stage before, or with fresh ones.
    """
    remove_astray(context.folder)
    checkpoint = newest(context.folder.checkpoints)
    if checkpoint is not None:
        if context.is_first_rank:
            say(f"stage {state.stage} continues from {checkpoint.name}")
        return go_past(go_on(state, checkpoint), context.folder)
    refuse_lost_steps(context)
    if context.moments_misfit is not None and context.is_first_rank:
        say(f"stage {state.stage} begins with fresh moments, not those of the stage before: {context.moments_misfit}")
    return go_past(carry_moments(state, context.moments), context.folder)


def carry_moments(state: TrainState, checkpoints: Path | None) -> TrainState:
    """Return a stage at its first step, with the optimizer's moments of the stage before, whose ``checkpoints`` they
    are in; unchanged for None.

    Raises UserError on every rank where the last checkpoint of the stage before is gone.
    """
    if checkpoints is None:
        return state
    earlier = newest(checkpoints)
    if earlier is None or not read_facts(earlier)["ended"]:
        raise UserError(
            "the optimizer moments of the previous stage are missing",
            where=str(checkpoints),
            why=f"stage {state.stage} continues with them, but "
            + (
                "no checkpoint there can be verified"
                if earlier is None
                else f"{earlier.name} is not the last checkpoint of the stage"
            ),
            fix=f"put that checkpoint back, or set stages.{state.stage}.carry_moments=false to start with new moments",
        )
    return load_moments(state, earlier)
