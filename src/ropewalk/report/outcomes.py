"""Sections about the results of a run: training, loss by position, retrieval, speed, experts, parity."""

from statistics import median

from ropewalk.core.quantity import format_amount, format_count, format_length
from ropewalk.report.charts import draw_positions, draw_retrieval
from ropewalk.report.contents import Contents
from ropewalk.report.curves import Border, draw_buckets, draw_held_out, draw_sources, draw_speed, draw_training
from ropewalk.report.measures import length_marks, position_losses, retrieval_maps
from ropewalk.report.section import Section
from ropewalk.report.source_losses import count_samples
from ropewalk.report.table import Table, TableCell
from ropewalk.report.verdict import PARITY, RETRIEVAL


def make_training(contents: Contents) -> Section:
    """Loss, gradient and rate over steps; the loss of each source and bucket; the figures on held-out text."""
    loss = contents.curve("loss/train")
    if not loss.values:
        return Section("training", "Training", note="No step has been taken yet.")
    borders = _borders(contents)
    pictures = [draw_training(loss, contents.curve("grad_norm"), contents.curve("lr"), borders=borders)]
    if sources := contents.curves("loss/source/"):
        roles = {name: str(facts["role"]) for name, facts in contents.sources.items()}
        pictures.append(draw_sources(sources, roles=roles, borders=borders))
    for prefix, kind in (("loss/position/", "position in the document"), ("loss/length/", "length of the document")):
        if buckets := contents.curves(prefix):
            buckets = {name: buckets[name] for name in sorted(buckets, key=_edges)}
            pictures.append(draw_buckets(buckets, kind=kind, borders=borders))
    if held_out := contents.curves("held_out/"):
        pictures.append(draw_held_out(held_out, borders=borders))
    lead = _tell_skipped(contents)
    return Section("training", "Training", lead, pictures=pictures)


def _tell_skipped(contents: Contents) -> str:
    """The number of skipped steps and the reasons; empty if no step was skipped."""
    unlabelled = len(contents.curve("skipped/unlabelled").values)
    refused = len(contents.curve("skipped").values) - unlabelled
    reasons = {"loss or gradient norm not finite, or far above the steps before": refused}
    reasons["their sequences have no label with loss"] = unlabelled
    told = [f"{format_count(count, 'step')} skipped: {why}." for why, count in reasons.items() if count]
    return " ".join(told)


def make_loss_by_position(contents: Contents) -> Section:
    """Loss by position, one line per model."""
    title, lines = "Loss by position", position_losses(contents)
    if not lines:
        return Section("position", title, note="Loss by position has not been measured yet.")
    reached = max(end for line in lines for _, end in line.buckets)
    marks = {name: tokens for name, tokens in length_marks(contents).items() if tokens <= reached}
    return Section("position", title, pictures=[draw_positions(lines, marks=marks)])


def make_retrieval(contents: Contents) -> Section:
    """Right answers by length and depth."""
    tasks = sorted({score.task for score in contents.scores if score.task.startswith("retrieval/")})
    if not tasks:
        return Section("retrieval", "Retrieval", note="Retrieval has not been measured yet.")
    tasks.sort(key=lambda task: task != RETRIEVAL)
    grids = {task: retrieval_maps(contents, task) for task in tasks}
    pictures = [
        draw_retrieval(maps, trained_tokens=contents.context_tokens, task=_name_task(task))
        for task, maps in grids.items()
        if maps
    ]
    rows = [
        [
            _name_task(task),
            model,
            format_length(score.context_tokens),
            f"{score.n:,}",
            count_samples(score.samples),
            f"{score.value * 100:.1f} %",
            f"{score.low * 100:.1f} to {score.high * 100:.1f}",
        ]
        for task in tasks
        for model in contents.models
        for score in contents.find_scores(task, model=model)
        if score.depth is None
    ]
    columns = ["task", "model", "context", "answers", "prompts", "right", "95 % interval"]
    caption = (
        "Answers of one prompt are not independent samples: the interval accounts for this by their design effect."
    )
    return Section("retrieval", "Retrieval", "", [Table(columns, rows, "llrrrrr", caption)] if rows else [], pictures)


def make_speed(contents: Contents) -> Section:
    """Tokens per second, and the balance of attention over ranks."""
    speed, mfu, imbalance = (contents.curve(name) for name in ("tokens_per_second", "mfu", "imbalance"))
    if not speed.values:
        return Section("speed", "Speed and balance", note="No step has been taken yet.")
    lead = f"Median {format_amount(median(speed.values))} tokens per second"
    if imbalance.values:
        lead += f"; the busiest rank has {median(imbalance.values):.2f} times the mean attention work (median)"
    if mfu.values:
        lead += f"; MFU {median(mfu.values):.1%} (median)"
    pictures = [draw_speed(speed, mfu, imbalance, borders=_borders(contents))]
    return Section("speed", "Speed and balance", lead + ".", pictures=pictures)


def make_experts(contents: Contents) -> Section | None:
    """The load of the experts in each layer, over the run; None for a dense model."""
    layers, greatest = contents.curves("experts/load/layer-"), contents.curve("experts/load")
    if not greatest.values:
        return None
    losses = contents.curve("experts/balance_loss").values
    lead = (
        f"In the last step, the busiest expert of any layer had {greatest.values[-1]:.2f} times the mean load (first "
        f"step: {greatest.values[0]:.2f}). The balance loss, mean of the layers, went from {losses[0]:.3f} to "
        f"{losses[-1]:.3f}; it is 1 where all experts are chosen alike."
    )
    rows = [
        [layer, f"{curve.values[0]:.2f}", f"{curve.values[-1]:.2f}", f"{max(curve.values):.2f}"]
        for layer, curve in sorted(layers.items(), key=lambda item: _edges(item[0]))
    ]
    columns = ["layer", "first", "last", "largest"]
    tables = [Table(columns, rows, "rrrr", "Load of the busiest expert over the mean load, by layer.")] if rows else []
    return Section("experts", "Load of experts", lead, tables)


def make_parity(contents: Contents) -> Section:
    """The exported model against plain transformers."""
    title = "Parity of the export"
    if not contents.parity:
        return Section("parity", title, note="Nothing has been exported yet.")
    rows: list[list[str | TableCell]] = [
        [str(int(place)), f"{value:.2e}", TableCell("pass", "pass") if value <= PARITY else TableCell("FAIL", "fail")]
        for place, value in sorted(contents.parity.items(), key=lambda item: int(item[0]))
    ]
    lead = (
        "Difference of the logits, relative to their norm, in float32, between this code and the exported folder, "
        "loaded in a new process by plain transformers (by the loader of ropewalk where no class of transformers has "
        f"these positions). At most {PARITY:g} is allowed."
    )
    return Section("parity", title, lead, [Table(["position", "difference", ""], rows, "rrl")])


def _edges(bucket: str) -> tuple[int, ...]:
    # the name of a bucket may come from any file
    return tuple(int(edge) for edge in bucket.split("-") if edge.isdecimal())


def _name_task(task: str) -> str:
    return task.removeprefix("retrieval/").replace("_", "-")


def _borders(contents: Contents) -> list[Border]:
    starts = zip(contents.stage_starts, contents.stages, strict=True)
    return [(start, f"stage {stage.number}") for start, stage in starts if stage.rows]
