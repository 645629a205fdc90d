"""``ropewalk receipt``: what a run's training took, and the ratio of two runs.

A receipt is made from the files of the run folder: the metrics, the sessions, and the sequences, which are a pure
function of recipe and corpus. So it can be made long after the run, and on another machine.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ropewalk.commands.receipt_session import WARM_STEPS, apply_session, choose_session
from ropewalk.commands.run_inputs import require
from ropewalk.core.artifact import is_finished, read_manifest, write_whole
from ropewalk.core.digest import digest_value
from ropewalk.core.error import UserError
from ropewalk.core.progress import say
from ropewalk.core.quantity import format_length
from ropewalk.core.read_json import read_written
from ropewalk.core.record import Metric, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.mix.dataset import Dataset
from ropewalk.corpus.tokens.corpus_folder import Corpus, open_corpus
from ropewalk.partition.choose import choose_partition
from ropewalk.partition.ulysses import UlyssesPartition
from ropewalk.plan.compare_receipts import compare_receipts
from ropewalk.plan.devices import recognise_device
from ropewalk.plan.flops import token_flops
from ropewalk.plan.forecast import forecast_stage
from ropewalk.plan.hardware import KNOWN, Machine
from ropewalk.plan.planned_machine import describe_measured_cpu
from ropewalk.plan.receipt import (
    Percentiles,
    Receipt,
    Rig,
    Sequences,
    StageReceipt,
    StepTotals,
    read_receipt,
    spell_receipt,
)
from ropewalk.plan.savings import Savings
from ropewalk.plan.sharing import plan_sharing
from ropewalk.plan.traffic import attention_traffic, count_gradient_bytes, recurrent_traffic, state_traffic
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.report.receipt import tabulate_receipt
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape

_READ_SEQUENCES = 2048
_CUT_SEQUENCES = 16


def tell_receipt(first: Path, second: Path | None) -> dict[str, Any]:
    """The receipt of a run folder or of a receipt's file; with a ``second`` one, the ratio of the two.

    A run folder that is not sealed also gets the receipt as a file. Raises UserError where one of them holds no trained
    step, or where the two did not do the same work.
    """
    ours = _find_receipt(first)
    if second is None:
        return {**ours.to_json(), "text": tabulate_receipt(ours).to_text()}
    theirs = _find_receipt(second)
    ratios = compare_receipts(ours, theirs)
    baseline = "another run of ropewalk" if theirs.software == "ropewalk" else theirs.software
    lines = [f"{ours.name} against {theirs.name}; baseline: {baseline} ({theirs.version})"]
    return {
        "baseline": baseline,
        "stages": [asdict(ratio) for ratio in ratios],
        "text": "\n".join([*lines, *(ratio.describe() for ratio in ratios)]),
    }


def _find_receipt(path: Path) -> Receipt:
    if path.is_file():
        return read_receipt(path)
    folder = RunFolder(path)
    if is_finished(path) and folder.receipt.is_file():
        return read_receipt(folder.receipt)
    if not folder.recipe.is_file():
        raise UserError(
            "there is no receipt",
            where=str(path),
            why="it is neither a receipt's file nor a run folder",
            fix="give the folder that a recipe has as `run`, or a file that `ropewalk receipt RUN --json` printed",
        )
    receipt = make_run_receipt(path)
    if not is_finished(path):
        write_whole(folder.receipt, spell_receipt(receipt))
    return receipt


def write_run_receipt(run: Path) -> None:
    """Write the receipt of a run into its folder, or say why there is none."""
    try:
        receipt = make_run_receipt(run)
    except UserError as error:
        say(f"no receipt: {error.what}: {error.why}")
        return
    write_whole(RunFolder(run).receipt, spell_receipt(receipt))


def make_run_receipt(run: Path) -> Receipt:
    """The receipt of every stage that took a step. Raises UserError where none did."""
    folder = RunFolder(run)
    recipe = load_recipe(folder.recipe, ())
    corpus = open_corpus(require(folder.corpus, verb="prepare"))
    metrics = list(read_metrics(folder.metrics)) if folder.metrics.is_file() else []
    sessions: list[dict[str, Any]] = read_written(folder.sessions) if folder.sessions.is_file() else []
    trained = [stage for stage in range(len(recipe.stages)) if any(metric.stage == stage for metric in metrics)]
    if not trained or not all("rig" in session for session in sessions):
        raise UserError(
            "no receipt can be made",
            where=str(run),
            why="no step is taken yet" if not trained else "it was trained by a version that noted no hardware",
            fix="train it first" if not trained else "train a stage again with this version",
        )
    foreign = [stage for stage in trained if all(session["stage"] != stage for session in sessions)]
    if foreign:
        raise UserError(
            "no receipt can be made",
            where=str(folder.sessions),
            why=f"it has no session of stage {foreign[0]}, whose steps were linked from another cell of a study",
            fix="ask for the receipt of the cell that took them",
        )
    versions = {name: each for session in sessions for name, each in session["versions"].items()}
    return Receipt(
        name=run.resolve().name,
        software="ropewalk",
        version=versions["ropewalk"],
        model=recipe.model if isinstance(recipe.model, str) else "random weights",
        model_digest=digest_value(read_manifest(folder.extended(trained[0]))["files"]),
        versions=versions,
        digests={"recipe": recipe.digest, "corpus": corpus.digest},
        stages=[_make_stage(recipe, folder, corpus, stage, metrics=metrics, sessions=sessions) for stage in trained],
    )


def _make_stage(
    recipe: Recipe,
    folder: RunFolder,
    corpus: Corpus,
    stage: int,
    *,
    metrics: Sequence[Metric],
    sessions: Sequence[Mapping[str, Any]],
) -> StageReceipt:
    mine = [session for session in sessions if session["stage"] == stage]
    timed = {metric.step for metric in metrics if metric.stage == stage and metric.name == "tokens_per_second"}
    session, counted = choose_session(mine, timed)
    recipe, shape = apply_session(recipe, stage, session), read_shape(folder.extended(stage))
    spec = recipe.stages[stage]
    rig, savings, precision = Rig(**session["rig"]), Savings(**session["savings"]), session["parallel"]["precision"]
    found = _collect(metrics, stage, counted)
    if "tokens_per_second" not in found:
        raise UserError(
            f"stage {stage} has too few steps",
            where=str(folder.metrics),
            why=f"the first {WARM_STEPS} steps of a session are left out",
            fix="train further",
        )
    dataset = open_stage(recipe, stage, corpus)
    held = [dataset.document_tokens(number) for number in range(min(dataset.sequences, _READ_SEQUENCES))]
    step_tokens = spec.step_sequences * spec.context_length
    per_sequence = [token_flops(shape, spec.context_length, document_tokens=each, lora=spec.lora) for each in held]
    attention = fmean(each.attention for each in per_sequence) * step_tokens
    shares = [each.share_of(savings.recompute_blocks) for each in per_sequence]
    element_bytes = 2 if precision == "bfloat16" else 4
    loss = next(metric.value for metric in metrics if metric.stage == stage and metric.name == "loss/train")
    return StageReceipt(
        sequences=Sequences(dataset.digest, spec.context_length, step_tokens, recipe.seed, count_lengths(held)),
        precision=precision,
        first_loss=loss,
        totals=StepTotals(
            linear_flops=per_sequence[0].linear * step_tokens,
            attention_flops=attention,
            true_attention_flops=attention,
            balance=median(found["imbalance"]),
            recompute=savings.recompute,
            recompute_blocks=savings.recompute_blocks,
            linear_again=shares[0].linear,
            attention_again=fmean(share.attention for share in shares),
        ),
        rig=rig,
        tokens_per_second=Percentiles.of(found["tokens_per_second"]),
        mfu=median(found["mfu"]),
        peak_bytes=max(found["peak_bytes"]),
        attention_bytes=_count_attention_bytes(
            recipe, shape, dataset, session, stage=stage, rig=rig, wide=element_bytes
        ),
        state_bytes=_count_micro_batches(spec, rig)
        * state_traffic(
            shape, ranks=rig.ranks, replicas=recipe.parallel.replicas, element_bytes=element_bytes, lora=spec.lora
        ),
        joules=median(found["joules"]) if "joules" in found else None,
        planned=_plan(recipe, shape, stage, rig=rig, precision=precision),
    )


def _collect(metrics: Sequence[Metric], stage: int, steps: Collection[int]) -> dict[str, list[float]]:
    """The values of each metric in these steps of a stage."""
    found: dict[str, list[float]] = {}
    for metric in metrics:
        if metric.stage == stage and metric.step in steps:
            found.setdefault(metric.name, []).append(metric.value)
    return found


def count_lengths(held: Sequence[Sequence[int]]) -> dict[str, int]:
    """The number of documents by length, in powers of two of tokens; ``held`` has the lengths of each sequence."""
    powers = Counter(tokens.bit_length() - 1 for sequence in held for tokens in sequence if tokens > 0)
    return {f"{format_length(1 << power)}-{format_length(2 << power)}": powers[power] for power in sorted(powers)}


def _count_attention_bytes(
    recipe: Recipe, shape: ModelShape, dataset: Dataset, session: Mapping[str, Any], *, stage: int, rig: Rig, wide: int
) -> float:
    """Bytes that the busiest rank sends for attention and recurrence in a step, by the stage's first batches."""
    spec, ranks, savings = recipe.stages[stage], rig.context_ranks, Savings(**session["savings"])
    if ranks == 1:
        return 0.0
    sharing = plan_sharing(recipe.parallel, shape, device=rig.kind, element_bytes=wide)
    sharing = replace(sharing, held_tokens=session.get("held_tokens"))  # sessions of earlier versions have none
    each, price, blocks = [], sharing.price.recurrent, savings.count_again(shape.layers)  # as in plan/workload.py
    again = shape.attending[blocks]
    forwards = again * (savings.recompute == "full")
    size = min(spec.micro_batch_size, spec.step_sequences)
    for number in range(0, min(_CUT_SEQUENCES, dataset.sequences - size + 1), size):
        partition = choose_partition(dataset.batch(number, size).document, ranks=ranks, sharing=sharing).partition
        sent = 0.0
        if isinstance(partition, UlyssesPartition):
            traffic = attention_traffic(
                shape,
                size * spec.context_length * partition.ulysses_degree // ranks,
                ranks=partition.ulysses_degree,
                exchange="heads",
                element_bytes=wide,
            )
            sent = shape.attention_layers * traffic.training_bytes() + again * traffic.forward
            partition = partition.token_partition
        tokens = float(partition.traffic_tokens.sum(axis=0).max()) if partition.ranks > 1 else 0.0
        degree = ranks // partition.ranks
        back = count_gradient_bytes(partition.exchange, wide)
        passes = shape.attention_layers * (2 * wide + back) + forwards * wide  # keys there, again, and their gradients
        total = sent + tokens * shape.sent_width * passes / degree
        if shape.recurrent is not None and price is not None:
            summaries = recurrent_traffic(partition, price)
            total += len(shape.recurrent.layers) * summaries.training_bytes()
            total += shape.recurring[blocks] * summaries.forward
        each.append(total)
    return fmean(each) * _count_micro_batches(spec, rig)


def _count_micro_batches(spec: Stage, rig: Rig) -> int:
    """The micro-batches of a data rank in a step."""
    return math.ceil(spec.step_sequences / (rig.ranks // rig.context_ranks * spec.micro_batch_size))


def _plan(recipe: Recipe, shape: ModelShape, stage: int, *, rig: Rig, precision: str) -> dict[str, float]:
    """The forecast of the stage on this rig, for sequences of one document each; none on a GPU of no known rates."""
    machine = _describe_machine(rig, context_tokens=recipe.stages[stage].context_length)
    if machine is None:
        return {}
    parallel = recipe.parallel.model_copy(update={"precision": precision, "device": rig.kind})
    plan = forecast_stage(parallel, recipe.stages[stage], shape, machine=machine)
    return {
        "tokens_per_second": plan.tokens_per_second,
        "peak_bytes": plan.memory.peak_bytes,
        "attention_bytes": plan.context_bytes,
        "state_bytes": plan.state_bytes,
    }


def _describe_machine(rig: Rig, *, context_tokens: int) -> Machine | None:
    """The plan's machine: a GPU of the table, or a CPU with the rates that were measured as the stage began.

    None for another GPU: a receipt does not hold its memory, which decides what is recomputed.
    """
    if rig.kind == "cuda":
        device = recognise_device(rig.device)
        return None if device is None else KNOWN[device.name]
    return describe_measured_cpu(rig, context_tokens=context_tokens)
