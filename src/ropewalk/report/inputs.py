"""Sections about the inputs of a run: recipe, positions, text, mix, versions."""

import math
from collections.abc import Iterator, Sequence

from ropewalk.core.quantity import format_amount, format_count, format_length
from ropewalk.report.charts import draw_mixture
from ropewalk.report.contents import Contents, StageContents
from ropewalk.report.figure import Picture
from ropewalk.report.ledger import tabulate_balance, tabulate_drops
from ropewalk.report.measures import read_mixture, turnings_of
from ropewalk.report.positions import Turning, draw_attraction, draw_reach, draw_scales, draw_turns
from ropewalk.report.section import Section
from ropewalk.report.table import Table
from ropewalk.rope.advise import PRACTICE


def make_done(contents: Contents) -> Section:
    """One line per stage: its settings, and its progress."""
    columns = ["stage", "context", "positions", "learning rate", "theta", "steps", "tokens", "end"]
    rows = [_describe_stage(stage) for stage in contents.stages]
    parallel = contents.recipe["parallel"]
    ranks = format_count(parallel["ranks"], "rank")
    lead = (
        f"{ranks}, each sequence over {parallel['context_parallel']} of them; layout {parallel['layout']}, "
        f"exchange {parallel['exchange']}, recompute {parallel['recompute']}, precision {parallel['precision']}."
    )
    tables, points = [Table(columns, rows, "llllrrrl")], list(_tell_sessions(contents))
    return Section("done", "What was done", lead, tables, points=points)


def _tell_sessions(contents: Contents) -> Iterator[str]:
    """The stages and steps where the means of computing changed between sessions, with every key that ever changed."""
    means = [session["parallel"] for session in contents.sessions]
    varied = [key for key in (means[0] if means else ()) if any(each.get(key) != means[0][key] for each in means)]
    before = None
    for session in contents.sessions if varied else ():
        now = [f"{key} {session['parallel'].get(key)}" for key in varied]
        if now != before:
            yield f"stage {session['stage']}, from step {session['from_step'] + 1} on: {', '.join(now)}"
        before = now


def make_positions(contents: Contents) -> Section:
    """The positions of each layer, and the turns, scales, attraction and reach of the pairs before and after."""
    title, lines, base_tokens = "Positions", turnings_of(contents), contents.base_context_tokens
    if not lines or base_tokens is None:
        return Section("rope", title, note="The model has not been extended yet.")
    live = max((stage.facts.get("live_frequency_difference", 0.0) for stage in contents.stages), default=0.0)
    lead = f"Frequencies read back from the built models differ from the method's by at most {live:.1e} of a value."
    points = [
        f"stage {stage.number}, layers {words}" for stage in contents.stages for words in stage.facts.get("layers", ())
    ]
    if not any(line.inv_freq.any() for line in lines):
        return Section("rope", title, lead, points=points, note="No layer has RoPE.")
    return Section("rope", title, lead, points=points, pictures=_draw_positions(contents, lines, base_tokens))


def _draw_positions(contents: Contents, lines: Sequence[Turning], base_tokens: int) -> list[Picture]:
    reached = max(contents.stages, key=lambda stage: stage.reach_tokens).reach_tokens
    lengths = {"base_tokens": base_tokens, "context_tokens": reached}
    turns = draw_turns(lines, **lengths)
    if len(lines) == 1 or reached <= base_tokens:
        return [turns]
    published = [(entry.theta, entry.context_tokens) for entry in PRACTICE]
    return [
        turns,
        draw_scales(lines, **lengths),
        draw_attraction(lines, **lengths),
        draw_reach(lines, context_tokens=reached, published=published),
    ]


def make_ledger(contents: Contents) -> Section:
    """Every document that was read, and its outcome."""
    title, ledger = "Token ledger", contents.ledger
    if not ledger:
        return Section("ledger", title, note="The corpus has not been prepared yet.")
    tables = [tabulate_balance(ledger, contents.sources)]
    if any(entry["dropped"] for entry in ledger.values()):
        tables.append(tabulate_drops(ledger))
    lead = (
        "All text that was read is either kept or dropped for a reason. A source balances if documents, bytes and "
        "tokens all add up."
    )
    return Section("ledger", title, lead, tables)


def make_mixture(contents: Contents) -> Section:
    """Planned and realised share of the tokens side by side: by source for every stage, drawn for the last one."""
    title = "Mixture"
    stages = [stage for stage in contents.stages if stage.source_tokens]
    if not contents.sources or not stages:
        return Section("mixture", title, note="No tokens have been drawn from the corpus yet.")
    columns = ["source", "role", "planned", "realised", "tokens", "repeats", "stage"]
    mixtures = [read_mixture(contents, stage) for stage in stages]
    rows = [
        [
            part.source,
            part.role,
            "" if math.isnan(part.planned) else f"{part.planned:.2%}",
            f"{part.realised:.2%}",
            format_amount(part.tokens),
            f"{part.repeats:.2f}",
            str(stage.number),
        ]
        for stage, mixture in zip(stages, mixtures, strict=True)
        for part in mixture
    ]
    lead = "Shares are counted in tokens; repeats is how often the text of a source was read."
    if len(stages) > 1:
        lead += f" The chart shows stage {stages[-1].number}."
    pictures = [] if stages[-1].planned is None else [draw_mixture(mixtures[-1])]
    return Section("mixture", title, lead, [Table(columns, rows, "llrrrrr")], pictures)


def make_versions(contents: Contents) -> Section:
    """The versions, seeds and digests that are needed to repeat the run."""
    facts = [
        ["seed", str(contents.recipe["seed"])],
        ["seed of the evaluation", str(contents.recipe["evaluate"]["seed"])],
        ["digest of the recipe", contents.recipe_digest],
    ]
    if contents.corpus:
        facts.append(["digest of the corpus", str(contents.corpus["digest"])])
    versions = [[name, str(value)] for name, value in contents.versions.items()]
    lead = "Versions are those at the end of the run; before the end, those installed where this page was made."
    tables = [Table(["what", "value"], facts, "ll", labels=0), Table(["package", "version"], versions, "ll")]
    return Section("versions", "Versions and seeds", lead, tables)


def _describe_stage(stage: StageContents) -> list[str]:
    theta, taken = stage.facts.get("theta"), sum(stage.source_tokens.values())
    context = format_length(int(stage.spec["context_length"]))
    skips = f", PoSE to {format_length(stage.reach_tokens)}" if stage.spec.get("pose") else ""
    ended = "target reached" if stage.solved else "all steps taken"
    return [
        str(stage.number),
        context + skips,
        str(stage.spec["rope"]["kind"]),
        f"{float(stage.spec['lr']):g}, {stage.spec['schedule']['shape']}",
        f"{theta:,.0f}" if theta else "",
        f"{stage.steps:,}",
        f"{format_amount(taken)} of {format_amount(stage.spec['tokens'])}",
        ended if stage.finished else "not finished" if stage.rows else "not begun",
    ]
