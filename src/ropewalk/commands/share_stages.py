"""Cells of a study that begin alike share their beginning: what one has made, the others link and do not compute again.

A beginning is named by a digest of all that decides it, the means of computing included: model, seed, corpus,
``parallel``, ``evaluate`` and the stages up to it. So a linked part is the part that the cell would have made, bit for
bit. A longer stage begins from the checkpoint of a shorter one (share_steps.py). Files are linked, not copied, where
the disk can; finished folders are never written again.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ropewalk.commands.link_files import link_files
from ropewalk.commands.share_steps import copy_metrics, link_steps
from ropewalk.core.artifact import discard, hold, is_finished, write_whole
from ropewalk.core.digest import digest_value
from ropewalk.core.progress import say
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.prompt_rules import PROBES
from ropewalk.recipe.key_effects import pick
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.sweep import Cell

_FREE_KEYS = ("gate", "merge_with_base")
"""Keys of a stage that decide what is made of its last checkpoint, not the checkpoint."""


def digest_text(recipe: Recipe) -> str:
    """The digest of what decides the first weights and the corpus."""
    data = recipe.to_json()
    prompts = data["evaluate"] if PROBES in recipe.corpus.decontaminate.files else None
    return digest_value([data["model"], data["corpus"], recipe.corpus_seed, _first_seed(recipe), prompts])


def digest_extended(recipe: Recipe) -> str:
    """The digest of what decides the first stage's model before training."""
    data = recipe.to_json()
    own = pick(data["stages"][0], "stages", "positions")
    return digest_value([digest_text(recipe), recipe.seed, data["parallel"], own])


def digest_stage(recipe: Recipe, stage: int, *, written: bool) -> str:
    """The digest of what decides a stage's checkpoints; with ``written`` also of what its model folder is made of."""
    data = recipe.to_json()
    last = data["stages"][stage]
    own = last if written else {key: value for key, value in last.items() if key not in _FREE_KEYS}
    before = [digest_text(recipe), recipe.seed, data["parallel"], data["evaluate"], data["stages"][:stage]]
    return digest_value([*before, own])


def digest_measured(cell: Cell) -> str | None:
    """The digest of what decides the scores of a model that no training has touched; None of a trained one."""
    if cell.kind == "trained":
        return None
    own = digest_text(cell.recipe) if cell.kind == "base" else digest_extended(cell.recipe)
    data = cell.recipe.to_json()
    return digest_value([cell.kind, own, data["parallel"], data["evaluate"]])


def _first_seed(recipe: Recipe) -> int | None:
    """The seed of random first weights; a base has none."""
    return None if isinstance(recipe.model, str) else recipe.seed


@contextmanager
def share(cell: Cell, cells: Sequence[Cell], study: Path) -> Iterator[None]:
    """Link what other cells have made of this one, and hold the rest of the shared beginning while the block makes it.

    The cell's folder must be held. Raises FolderInUseError where another process is making a shared part.
    """
    with ExitStack() as held:
        others = [other for other in cells if other.name != cell.name]
        for name in _list_missing(cell, others):
            held.enter_context(hold(study / "shared" / name))
        link_finished(cell, others)
        yield


def _list_missing(cell: Cell, others: Sequence[Cell]) -> list[str]:
    """The digests of the beginnings that the cell has not made yet and that another cell needs, too."""
    theirs = {name for other in others for name in _list_beginnings(other)}
    return [name for name, done in _list_beginnings(cell).items() if name in theirs and not done]


def _list_beginnings(cell: Cell) -> dict[str, bool]:
    """Digest -> whether the cell has it, of each part that another cell may share."""
    recipe, folder = cell.recipe, RunFolder(Path(cell.recipe.run))
    found = {digest_text(recipe): is_finished(folder.corpus)}
    measured = digest_measured(cell)
    if measured is not None:
        found[measured] = folder.scores.exists()
    if cell.kind != "base":
        found[digest_extended(recipe)] = is_finished(folder.extended(0))
    if cell.kind == "trained":
        for stage in range(len(recipe.stages)):
            found[digest_stage(recipe, stage, written=False)] = is_finished(folder.trained(stage))
    return found


def link_finished(cell: Cell, others: Sequence[Cell]) -> None:
    """Link each part of the cell that another cell has made and that this one has not begun."""
    recipe, folder = cell.recipe, RunFolder(Path(cell.recipe.run))
    donors = [(each, there) for each in others if (there := RunFolder(Path(each.recipe.run))) and _is_current(each)]
    for each, there in donors:
        if digest_text(each.recipe) == digest_text(recipe):
            for ours, theirs in ((folder.tokenizer, there.tokenizer), (folder.initial, there.initial)):
                if theirs.exists() and not ours.exists() and is_finished(there.corpus):
                    link_files(theirs, ours)
            if len(there.root.parts) == len(folder.root.parts):  # a corpus points to its store by a relative path
                _link_folder(there.corpus, folder.corpus)
    if cell.kind == "trained":
        for stage in range(len(recipe.stages)):
            if not is_finished(folder.trained(stage)) and not _link_stage(recipe, folder, donors, stage):
                shorter = [(each.name, each.recipe, there) for each, there in donors if each.kind == "trained"]
                link_steps(recipe, folder, shorter, stage)
                break
    for each, there in donors:
        if cell.kind != "base" and each.kind != "base" and digest_extended(each.recipe) == digest_extended(recipe):
            _link_folder(there.extended(0), folder.extended(0))
        measured = digest_measured(cell)
        is_same = measured is not None and measured == digest_measured(each)
        if is_same and there.scores.exists() and not folder.scores.exists():
            write_whole(folder.scores, there.scores.read_text())
            say(f"{cell.name}: has the scores of {each.name}")


def _is_current(cell: Cell) -> bool:
    """True if the cell's folder was made from the recipe that the study has now."""
    recorded = RunFolder(Path(cell.recipe.run)).recipe
    return recorded.exists() and load_recipe(recorded).digest == cell.recipe.digest


def _link_stage(recipe: Recipe, folder: RunFolder, donors: Sequence[tuple[Cell, RunFolder]], stage: int) -> bool:
    """Link a whole trained stage, with its lines of metrics; False where no other cell has it or this one has begun."""
    if folder.is_trained(stage):
        return False
    for each, there in donors:
        if each.kind != "trained" or len(each.recipe.stages) <= stage or not is_finished(there.trained(stage)):
            continue
        if digest_stage(each.recipe, stage, written=False) != digest_stage(recipe, stage, written=False):
            continue
        same = digest_stage(each.recipe, stage, written=True) == digest_stage(recipe, stage, written=True)
        copy_metrics(there, folder, stage)
        discard(folder.stage(stage).root)
        own = there.stage(stage)
        link_files(own.root, folder.stage(stage).root, without=() if same else (own.trained.name, own.gate.name))
        say(f"stage {stage}: linked from {each.name}, not trained again")
        return same
    return False


def _link_folder(source: Path, target: Path) -> None:
    if is_finished(source) and not target.exists():
        link_files(source, target)
