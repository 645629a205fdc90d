"""Runs all parts of one recipe in order, and skips a part whose artifact exists.

Each part stands in the file of its verb: prepare, extend, train, evaluate, export. A part is a function of (recipe, run
folder), and its result is identified by its manifest. What needs torch is forked into ranks.
"""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ropewalk.commands.claim import claim
from ropewalk.commands.evaluate import evaluate_run
from ropewalk.commands.export import export_run
from ropewalk.commands.extend import extend_first_stage
from ropewalk.commands.on_ranks import alone
from ropewalk.commands.prepare import prepare_corpus
from ropewalk.commands.receipt import write_run_receipt
from ropewalk.commands.train import require_packages, train_stages
from ropewalk.core.artifact import is_finished, read_manifest, seal
from ropewalk.core.progress import say
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.versions import find_versions
from ropewalk.parallel.stop import stop_if_asked
from ropewalk.parallel.torchrun import is_first, is_started
from ropewalk.plan.named_hardware import require_hardware
from ropewalk.recipe.missing_paths import require_paths
from ropewalk.recipe.part_digests import digest_parts
from ropewalk.recipe.spec import Recipe
from ropewalk.report.page import summarise, write_report
from ropewalk.shape.find import require_base

_VERSIONS = ("ropewalk", "torch", "transformers", "tokenizers", "safetensors", "numpy")

Part = Callable[[Recipe, RunFolder], None]
_FOR_ONE = ("prepare", "report")
"""Parts that start their own ranks or processes, or none: under torchrun only the first rank does them."""


def run_recipe(recipe: Recipe) -> dict[str, Any]:
    """Do every part that is not done yet; return the summary for the command line."""
    if is_first():
        require_packages(recipe)  # before hours of preparing text
        require_hardware(recipe)
        require_inputs("prepare", recipe)
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
    if is_first():
        require_inputs(name, recipe)
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


def require_inputs(part: str, recipe: Recipe) -> None:
    """Raise UserError where the base or the text that ``part`` begins with is missing, before anything is told.

    Warnings about a run that cannot begin would hide that it cannot.
    """
    folder = RunFolder(Path(recipe.run))
    if part != "prepare" or is_finished(folder.root) or is_finished(folder.corpus):
        return
    if isinstance(recipe.model, str):
        require_base(recipe.model)
    require_paths(recipe)


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


def report_run(recipe: Recipe, folder: RunFolder) -> None:
    """Write the receipt of the training, and report.html from the files that exist."""
    if not is_finished(folder.root):
        write_run_receipt(folder.root)
    write_report(folder.root)


PARTS: dict[str, Part] = {
    "prepare": prepare_corpus,
    "extend": extend_first_stage,
    "train": train_stages,
    "evaluate": evaluate_run,
    "export": export_run,
    "report": report_run,
}


def read_versions() -> dict[str, str]:
    """The versions of Python and of all packages that affect a result."""
    return {"python": platform.python_version(), **find_versions(_VERSIONS)}
