"""Runs all parts of one recipe in order, and skips a part whose artifact exists.

This file computes nothing with torch. Such work is forked into ranks, so this process stays small and survives the
death of a rank. A part is a function of (recipe, run folder), and its result is identified by its manifest.
"""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ropewalk.commands import longrope_search, rank_tasks
from ropewalk.commands.claim import claim, read_base_shape, say_finding
from ropewalk.commands.rank_tasks import alone, ask_probes, on_ranks
from ropewalk.commands.run_inputs import base_model, require, require_new, stage_input
from ropewalk.core.artifact import is_finished, read_manifest, seal, write_whole
from ropewalk.core.error import RankError
from ropewalk.core.progress import say
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.parallel.stop import Stopped, stop_if_asked
from ropewalk.parallel.torchrun import is_first, is_started
from ropewalk.plan.choose import forecast_recipe
from ropewalk.recipe.check import base_context, check
from ropewalk.recipe.check_corpus import check_corpus
from ropewalk.recipe.load import parse_stage
from ropewalk.recipe.lora import require_peft
from ropewalk.recipe.part_digests import digest_parts
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.recipe.stretch import describe_stages
from ropewalk.recipe.trackers import require_trackers
from ropewalk.shape.find import find_model
from ropewalk.shape.read import read_shape

_VERSIONS = ("ropewalk", "torch", "transformers", "tokenizers", "safetensors", "numpy")

Part = Callable[[Recipe, RunFolder], None]
_FOR_ONE = ("prepare", "report")
"""Parts that start their own ranks or processes, or none: under torchrun only the first rank does them."""


def run_recipe(recipe: Recipe) -> dict[str, Any]:
    """Do every part that is not done yet; return the summary for the command line."""
    from ropewalk.report.page import summarise

    if is_first():
        _require_packages(recipe)  # before hours of preparing text
    folder = RunFolder(Path(recipe.run))
    with claim(recipe, folder):
        if is_finished(folder.root):
            if is_first():
                say(f"{folder.root} is finished: nothing to do")
        else:
            for name in PARTS:
                stop_if_asked()
                if is_first():
                    say(f"== {name}")
                _do(name, recipe, folder)
            alone(lambda: _seal(recipe, folder))
    if is_started():
        _leave()
    if not is_first():
        return {}
    summary = summarise(folder.root)
    return {
        **summary,
        "run": str(folder.root),
        "report": str(folder.report),
        "text": f"{summary['text']}\n\n{folder.report}",
    }


def do_part(name: str, recipe: Recipe) -> dict[str, Any]:
    """Do one part if it is not done; the parts before it must be done. Returns its artifacts."""
    folder = RunFolder(Path(recipe.run))
    with claim(recipe, folder, holds=name != "report"):
        _do(name, recipe, folder)
    if is_started():
        _leave()
    made = [str(path) for path in folder.made_by(name, stages=len(recipe.stages)) if path.exists()]
    tells = name == "extend" and is_finished(folder.extended(0))
    layers = read_manifest(folder.extended(0))["facts"]["layers"] if tells else []
    told = {"layers": layers} if layers else {}
    return {"part": name, "made": made, **told, "text": "\n".join([*made, *(f"layers {words}" for words in layers)])}


def _do(name: str, recipe: Recipe, folder: RunFolder) -> None:
    if name in _FOR_ONE:
        alone(lambda: PARTS[name](recipe, folder))
    else:
        PARTS[name](recipe, folder)


def _leave() -> None:
    from ropewalk.parallel.launch import leave_ranks

    leave_ranks()


def _seal(recipe: Recipe, folder: RunFolder) -> None:
    names = [path.name for path in (folder.recipe, folder.metrics, folder.scores, folder.report)]
    inputs = {"recipe": recipe.digest, "parts": digest_parts(recipe)}
    seal(folder.root, kind="run", inputs=inputs, facts=read_versions(), names=names)


def prepare(recipe: Recipe, folder: RunFolder) -> None:
    """Prepare the token store; for a model that starts from nothing also its tokenizer and first weights."""
    from ropewalk.corpus.prepare.build import build, read_texts
    from ropewalk.corpus.tokens.tokenizer import load_tokenizer
    from ropewalk.corpus.tokens.train_tokenizer import train_tokenizer
    from ropewalk.model.folder import check_tokenizer

    if isinstance(recipe.model, ModelSource) and not is_finished(folder.initial):
        init = recipe.model.init
        tokenizer = folder.tokenizer
        if isinstance(init.tokenizer, str):
            tokenizer = Path(init.tokenizer)
        elif not tokenizer.exists():
            texts = read_texts(recipe.corpus, seed=recipe.corpus_seed)
            train_tokenizer(texts, vocabulary=init.tokenizer, folder=tokenizer)
        on_ranks(rank_tasks.init, 1, init, tokenizer, folder.initial, recipe.seed)
    if not is_finished(folder.corpus):
        base = base_model(folder, recipe)
        check_tokenizer(base, vocabulary=read_shape(base).vocabulary)
        spoken, probes = load_tokenizer(base), ask_probes(recipe, base)
        build(recipe.corpus, tokenizer=spoken, seed=recipe.corpus_seed, folder=folder.corpus, probes=probes)
        corpus, base_tokens = open_corpus(folder.corpus), base_context(recipe, read_base_shape(recipe))
        for finding in check_corpus(recipe, corpus, base_tokens):  # now, not after days of training
            say_finding(finding)


def extend(recipe: Recipe, folder: RunFolder) -> None:
    """Make the first stage's model with its new positions; the models of later stages are made during training."""
    _extend_stage(recipe, folder, 0)


def train(recipe: Recipe, folder: RunFolder) -> None:
    """Train all stages in turn, each from the weights of the stage before."""
    if is_first():
        _require_packages(recipe)
    require(folder.corpus, verb="prepare")
    for stage in range(len(recipe.stages)):
        if not is_finished(folder.trained(stage)):
            _extend_stage(recipe, folder, stage)
            if _train_stage(recipe, folder, stage) == "stopped":
                raise Stopped
            on_ranks(rank_tasks.write_trained, recipe.parallel.ranks, recipe, folder, stage)
        if recipe.stages[stage].gate is not None:
            on_ranks(rank_tasks.check_gate, recipe.parallel.ranks, recipe, folder, stage)


def _train_stage(recipe: Recipe, folder: RunFolder, stage: int) -> str:
    """Train a stage to its end. Lost ranks are started again while new checkpoints show progress.

    Without progress, they are started at most ``parallel.restarts`` times from the same step; then the RankError is
    raised.
    """
    reached, tries = folder.newest_step(stage), 0
    while True:
        try:
            return str(on_ranks(rank_tasks.train, recipe.parallel.ranks, recipe, stage, folder))
        except RankError as error:
            before, reached = reached, folder.newest_step(stage)
            tries = tries + 1 if reached <= before else 1
            if tries > recipe.parallel.restarts:
                raise
            say(f"{error}\nstarting the ranks again from step {reached} ({tries} of {recipe.parallel.restarts} there)")


def evaluate(recipe: Recipe, folder: RunFolder) -> None:
    """Measure base and trained model on the same inputs, and write scores.json."""
    trained = require(folder.trained(len(recipe.stages) - 1), verb="train")
    models = {} if isinstance(recipe.model, ModelSource) else {"base": base_model(folder, recipe)}
    measure(recipe, folder, models | {"extended": trained})


def measure(recipe: Recipe, folder: RunFolder, models: dict[str, Path]) -> None:
    """Measure models on the same inputs and write scores.json, unless it exists.

    Lengths are multiples of the base's.
    """
    if is_started() or not folder.scores.exists():  # under torchrun the ranks must decide this together, not one by one
        base_tokens = read_shape(base_model(folder, recipe)).context_tokens
        on_ranks(rank_tasks.evaluate, recipe.parallel.ranks, recipe, folder, models, base_tokens)


def export(recipe: Recipe, folder: RunFolder) -> None:
    """Export the last weights in the export's dtype, and compare them with plain transformers in a fresh process."""
    trained = require(folder.trained(len(recipe.stages) - 1), verb="train")
    if is_started() or not is_finished(folder.export):
        on_ranks(rank_tasks.export, 1, trained, base_model(folder, recipe), folder.export, recipe.export.dtype)
    ranks = 1 if is_started() else recipe.parallel.ranks  # torchrun's first rank cannot start others
    alone(lambda: _verify(folder, ranks))


def _verify(folder: RunFolder, ranks: int) -> None:
    if folder.parity.exists():
        return
    from ropewalk.model.engines import is_native
    from ropewalk.model.verify import verify_export, verify_generation

    if not is_native(folder.export):
        say("no class of transformers has these positions: other readers refuse this folder, see its LOADING.md")
    verify_generation(folder.export, ranks=ranks)
    write_whole(folder.parity, json.dumps(verify_export(folder.export, ranks=ranks)))


def report(recipe: Recipe, folder: RunFolder) -> None:
    """Write report.html from the files that exist."""
    from ropewalk.report.page import write_report

    write_report(folder.root)


PARTS: dict[str, Part] = {
    "prepare": prepare,
    "extend": extend,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "report": report,
}


def extend_model(model: str, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Extend a model folder without a recipe; ``overrides`` are keys of one stage. Returns the proven facts."""
    stage = parse_stage(overrides)
    require_new(out)
    on_ranks(rank_tasks.extend, 1, find_model(model), out, stage)
    facts = read_manifest(out)["facts"]
    return {"model": str(out), **facts, "text": "\n".join([str(out), *(_tell_fact(key, facts[key]) for key in facts)])}


def _tell_fact(name: str, value: Any) -> str:
    """A fact as a line for people: layers one after another, numbers in readable form."""
    if isinstance(value, float):
        value = f"{value:.3g}" if value < 1 else f"{value:,.0f}"
    return f"{name}: {'; '.join(value) if isinstance(value, list) else value}"


def check_recipe(recipe: Recipe) -> dict[str, Any]:
    """Every rule that the recipe breaks, and the forecast cost of its stages."""
    shape = read_base_shape(recipe)
    folder = RunFolder(Path(recipe.run))
    findings = check(recipe, shape)
    if is_finished(folder.corpus):
        findings += check_corpus(recipe, open_corpus(folder.corpus), base_context(recipe, shape))
    errors = sum(finding.level == "error" for finding in findings)
    plans = [] if shape is None else forecast_recipe(recipe, shape)
    lines = [f"{finding.level}: {finding.key}: {finding.message} ({finding.source})" for finding in findings]
    positions = [] if shape is None else list(describe_stages(recipe, shape))
    lines += [f"stage {index} positions: {words}" for index, layers in enumerate(positions) for words in layers]
    for index, plan in enumerate(plans):
        lines += [f"stage {index}", plan.describe()]
    lines.append(f"{_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}")
    return {
        "errors": errors,
        "findings": [asdict(finding) for finding in findings],
        "positions": positions,
        "plans": [asdict(plan) for plan in plans],
        "text": "\n".join(lines),
    }


def _extend_stage(recipe: Recipe, folder: RunFolder, stage: int) -> None:
    # The rank that does the work checks if it is done already: torchrun's ranks may arrive here at different times.
    spec = recipe.stages[stage]
    if longrope_search.needs_search(spec):
        require(folder.corpus, verb="prepare")
        on_ranks(longrope_search.extend, 1, recipe, folder, stage)
    else:
        on_ranks(rank_tasks.extend, 1, stage_input(folder, recipe, stage), folder.extended(stage), spec)


def _require_packages(recipe: Recipe) -> None:
    require_trackers(recipe.trackers)
    if any(stage.lora is not None for stage in recipe.stages):
        require_peft()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def read_versions() -> dict[str, str]:
    """The versions of Python and of all packages that affect a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}}
