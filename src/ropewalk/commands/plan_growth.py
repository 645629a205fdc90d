"""Decides if a recipe can continue a run folder, and which parts of the folder must be made anew.

The recipe in the folder is the one that everything there was made from. Each part of both recipes has a digest of its
inputs (recipe/part_digests.py). A part with the same digest is kept. Another part is made anew, unless this would lose
training.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ropewalk.commands.lengthen_stage import find_start, refuse_other_shares
from ropewalk.core.artifact import MANIFEST, is_finished
from ropewalk.core.error import UserError
from ropewalk.core.quantity import format_count
from ropewalk.core.run_folder import RunFolder
from ropewalk.corpus.prepare.build import holds_sources
from ropewalk.corpus.prompt_rules import PROBES
from ropewalk.recipe.key_effects import FREE, KeyChange, Side, find_changes
from ropewalk.recipe.load import load_recipe
from ropewalk.recipe.part_digests import (
    CORPUS,
    EVALUATE,
    EXPORT,
    INITIAL,
    digest_parts,
    extend_part,
    gate_part,
    train_part,
    write_part,
)
from ropewalk.recipe.spec import Recipe

_SHOWN_CHANGES, _SHOWN_LETTERS = 4, 60
_REMADE: frozenset[Side] = frozenset({"gate", "evaluate", "export"})
_PROMPT_KEYS = {f"evaluate.{key}" for key in ("lengths", "answers", "depths", "pairs", "probes", "seed")}


@dataclass(frozen=True, slots=True)
class Growth:
    """The effects of a new recipe on a run folder of another recipe; none where there are no ``changes``.

    ``stale`` are the paths to remove, in that order, before the new recipe is written. ``back`` is (stage, step) of the
    checkpoint to continue from, if a stage goes back. ``lines`` are messages for people.
    """

    changes: tuple[KeyChange, ...] = ()
    stale: tuple[Path, ...] = ()
    back: tuple[int, int] | None = None
    lines: tuple[str, ...] = ()


def plan_growth(recipe: Recipe, folder: RunFolder) -> Growth:
    """Plan the folder's changes for this recipe. Raises UserError where finished training would be lost."""
    held = load_recipe(folder.recipe)
    changes = tuple(find_changes(held, recipe))
    if all(change.side in FREE for change in changes):
        return Growth(changes, () if is_finished(folder.root) else tuple(_list_base_losses(folder, changes)))
    moved = any(change.side == "place" for change in changes)
    if (
        moved
        and is_finished(folder.corpus)
        and not holds_sources(folder.corpus, recipe.corpus, seed=recipe.corpus_seed)
    ):
        raise _refuse(folder, changes, [], everything=True)
    theirs, ours = digest_parts(held), digest_parts(recipe)
    changed = {name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name)}
    count = max(len(held.stages), len(recipe.stages))
    kept = next((stage for stage in range(count) if changed & _before_writing(stage)), count)
    grown = next((stage for stage in range(kept) if write_part(stage) in changed), None)
    lost = [stage for stage in range(kept if grown is None else grown + 1, count) if folder.is_trained(stage)]
    if lost:
        raise _refuse(folder, changes, lost, everything=bool(changed & {INITIAL, CORPUS}))
    back = None
    if grown is not None and folder.is_trained(grown):
        refuse_other_shares(recipe, held, folder, grown)
        start = find_start(recipe, held, folder, grown)
        back = (grown, start) if start < folder.newest_step(grown) else None
    stale = tuple(_list_stale(folder, changed, changes, count))
    return Growth(changes, stale, back, tuple(_tell(folder, changes, stale, back, recipe)))


def require_same_stage(recipe: Recipe, folder: RunFolder, stage: int) -> None:
    """Raise UserError if the folder's corpus or extended model of a stage was made from another recipe."""
    held = load_recipe(folder.recipe)
    theirs, ours = digest_parts(held), digest_parts(recipe)
    if any(theirs.get(name) != ours.get(name) for name in (CORPUS, extend_part(stage))):
        raise _refuse(folder, find_changes(held, recipe), [], everything=False)


def _before_writing(stage: int) -> set[str]:
    return {INITIAL, CORPUS, extend_part(stage), train_part(stage)}


def _refuse(folder: RunFolder, changes: Iterable[KeyChange], lost: list[int], *, everything: bool) -> UserError:
    told = [_spell(change) for change in changes if change.side not in FREE | _REMADE]
    more = [f"{len(told) - _SHOWN_CHANGES} more"] if len(told) > _SHOWN_CHANGES else []
    names = f"stage{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
    trained = f"; {names} would have to be trained again" if lost else ""
    where = folder.root if everything or not lost else folder.extended(lost[0]).parent
    again = "it" if where == folder.root else f"{where}, the stages after it and their lines of metrics.jsonl"
    return UserError(
        "the run folder belongs to another recipe",
        where=str(folder.root),
        why=f"they differ in {', '.join([*told[:_SHOWN_CHANGES], *more])}{trained}",
        fix=f"restore these keys, or give this run another folder (run=...), or remove {again} to train again",
    )


def _spell(change: KeyChange) -> str:
    if change.path.count(".") == 1 and change.path.startswith("stages."):
        return f"{change.path} ({'added' if change.held is None else 'taken out'})"
    held, given = (json.dumps(value, ensure_ascii=False) for value in (change.held, change.given))
    return f"{change.path} ({held} there, {given} here)" if len(held) + len(given) < _SHOWN_LETTERS else change.path


def _list_stale(folder: RunFolder, changed: set[str], changes: Iterable[KeyChange], stages: int) -> Iterable[Path]:
    """The stale paths from the last part made to the first, so that a kill leaves no part without those it needs."""
    found = [folder.root / MANIFEST]
    if EXPORT in changed:
        found += [folder.parity, folder.export]
    if EVALUATE in changed:
        found.append(folder.scores)
    found += _list_base_losses(folder, changes)
    for stage in reversed(range(stages)):
        if gate_part(stage) in changed:
            found.append(folder.gate(stage))
        if write_part(stage) in changed:
            found.append(folder.trained(stage))
        if extend_part(stage) in changed:
            own = folder.stage(stage)
            found += [own.base_loss, own.retrieval_heads, own.extended, own.factors]
    if CORPUS in changed:
        found += [folder.corpus_page, folder.corpus_survey, folder.corpus]
    if INITIAL in changed:
        found += [folder.initial, folder.tokenizer]
    return dict.fromkeys(path for path in found if path.exists())


def _list_base_losses(folder: RunFolder, changes: Iterable[KeyChange]) -> list[Path]:
    """The stored figures of the base, if the recipe now asks the validations for something else."""
    asked = re.compile(r"stages\.\d+\.validation(\..*)?|evaluate\..*")
    changed = any(asked.fullmatch(change.path) for change in changes)
    stages = [folder.stage(int(path.name)) for path in folder.stages.glob("*") if path.name.isdigit()]
    paths = [path for stage in stages for path in (stage.base_loss, stage.retrieval_heads)]
    return [path for path in paths if changed and path.exists()]


def _tell(
    folder: RunFolder, changes: Iterable[KeyChange], stale: Iterable[Path], back: tuple[int, int] | None, recipe: Recipe
) -> Iterable[str]:
    told = [change for change in changes if change.side not in FREE]
    more = f" and {len(told) - _SHOWN_CHANGES} more" if len(told) > _SHOWN_CHANGES else ""
    yield f"the recipe has changed: {', '.join(map(_spell, told[:_SHOWN_CHANGES]))}{more}"
    names = [str(path.relative_to(folder.root)) for path in stale if path.name != MANIFEST]
    if names:
        yield f"made again because of this: {', '.join(names)}; everything else is kept"
    if back is not None:
        stage, step = back
        taken = folder.newest_step(stage) - step
        yield (
            f"stage {stage} continues from step {step}, before its learning rate decayed: "
            f"{format_count(taken, 'step')} repeated"
        )
    kept = is_finished(folder.corpus) and folder.corpus not in stale
    if (
        kept
        and PROBES in recipe.corpus.decontaminate.files
        and any(change.path.startswith(tuple(_PROMPT_KEYS)) for change in told)
    ):
        yield (
            "WARNING: the corpus was decontaminated against the earlier prompts of `evaluate`, not against its "
            "present prompts (corpus.decontaminate: probes)"
        )
