"""The contents of a run folder, read once; every file except the recipe may be missing.

A report is made only from the files of the folder, as plain data. So it can be made where the run cannot be run: it
needs no torch, no token store and no base model. An unfinished run is read in the same way, with fewer files.
"""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ropewalk.core.artifact import MANIFEST, is_finished, read_manifest
from ropewalk.core.digest import digest_recipe
from ropewalk.core.error import UserError
from ropewalk.core.record import Metric, Score, read_metrics, read_scores
from ropewalk.core.run_folder import CORPUS_CONTENT, LEDGER, RunFolder
from ropewalk.core.versions import find_versions
from ropewalk.plan.receipt import Receipt, read_receipt
from ropewalk.report.visible import show_all, show_hidden
from ropewalk.rope.given_defaults import read_marked_stage
from ropewalk.rope.layers import LayerPosition

MODELS = ("base", "zero-shot", "extended")
"""The columns of a report: the base, the same weights with the new positions, and these after training."""
_NAMES = {"trained": "extended"}
"""What a study's cell calls a model, where a run has another name for it."""

_PACKAGES = ("numpy", "ropewalk", "safetensors", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure of training over the steps of the whole run; the steps are counted on from stage to stage."""

    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class StageContents:
    """One stage: its part of the recipe, the facts from extending its model, and its training rows.

    ``former`` and ``positions`` are the positions of each layer before the stage and in it; empty before it is
    extended.
    """

    number: int
    spec: Mapping[str, Any]
    facts: Mapping[str, Any]
    former: Sequence[LayerPosition]
    positions: Sequence[LayerPosition]
    rotary_dim: int
    rows: Sequence[Metric]
    finished: bool
    planned: Mapping[str, float] | None
    """Each source's planned share of the tokens, as training noted it; None before training began."""

    @property
    def reach_tokens(self) -> int:
        """The largest position in tokens: the sequence length, or the reach of skip-wise positions."""
        pose = self.spec.get("pose")
        return int(pose["reach"] if pose else self.spec["context_length"])

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return max((row.step for row in self.rows), default=0)

    @property
    def solved(self) -> bool:
        """True if the stage ended because its ``stop`` was reached."""
        return any(row.name == "stage/solved" and row.value > 0 for row in self.rows)

    @property
    def counted_steps(self) -> int:
        """The steps up to which ``source_tokens`` are counted; 0 before the first count."""
        return max((row.step for row in self.rows if row.name.startswith("tokens/source/")), default=0)

    @property
    def source_tokens(self) -> dict[str, int]:
        """Tokens that each source has given so far, from the validations."""
        tokens: dict[str, int] = {}
        for row in self.rows:
            if row.name.startswith("tokens/source/"):
                name = row.name.removeprefix("tokens/source/")
                tokens[name] = tokens.get(name, 0) + int(row.value)
        return tokens


@dataclass(frozen=True)
class Contents:
    """A run folder. If a part is not done, ``corpus``, ``ledger`` and ``parity`` are None and ``scores`` is empty.

    ``versions`` are the versions that the finished run noted, or those of the installed packages before that. All text
    is safe to display. ``recipe_digest`` is the recipe's own digest: of everything that decides the result, so without
    the folder's name.
    """

    name: str
    recipe_digest: str
    recipe: Mapping[str, Any]
    corpus: Mapping[str, Any] | None
    ledger: Mapping[str, Any] | None
    stages: Sequence[StageContents]
    scores: Sequence[Score]
    parity: Mapping[str, float] | None
    versions: Mapping[str, str]
    sessions: Sequence[Mapping[str, Any]] = ()
    """The means of computing of each stretch of the training."""
    receipt: Receipt | None = None

    @property
    def model(self) -> str:
        """The base's name, or a phrase for a model without a base."""
        model = self.recipe["model"]
        return model if isinstance(model, str) else "a model from random weights"

    @property
    def from_nothing(self) -> bool:
        return not isinstance(self.recipe["model"], str)

    @property
    def is_trial(self) -> bool:
        """True for a run with ``--fast``."""
        return bool(self.recipe.get("trial"))

    @property
    def is_tiny_base(self) -> bool:
        """True for the packaged base, whose own figures are known."""
        return bool(self.recipe["model"] == "tiny-base")

    @property
    def base_context_tokens(self) -> int | None:
        """The context in tokens of the base's training; None before the first stage is extended."""
        if self.from_nothing:
            return int(self.recipe["model"]["init"]["context_length"])
        tokens = self.stages[0].facts.get("base_context_tokens")
        return None if tokens is None else int(tokens)

    @property
    def context_tokens(self) -> int:
        """The longest length in tokens for which the run trains positions."""
        return max(stage.reach_tokens for stage in self.stages)

    @property
    def sources(self) -> Mapping[str, Mapping[str, Any]]:
        """Facts of each source of the corpus: role, documents, tokens, languages, license."""
        entries = (self.corpus or {}).get("sources", {})
        return {name: entry["facts"] for name, entry in entries.items()}

    @property
    def models(self) -> list[str]:
        """The measured models: the base, the base with the new positions and no training, the trained model."""
        return [name for name in MODELS if any(score.model == name for score in self.scores)]

    def find_scores(self, task: str, *, model: str) -> list[Score]:
        """The scores of ``model`` with this task.

        A ``task`` that ends in ``/`` matches every task that begins with it.
        """
        match = str.startswith if task.endswith("/") else str.__eq__
        return [score for score in self.scores if score.model == model and match(score.task, task)]

    @property
    def stage_starts(self) -> list[int]:
        """The number of steps that the run took before each stage."""
        starts = [0]
        for stage in self.stages[:-1]:
            starts.append(starts[-1] + stage.steps)
        return starts

    def curve(self, name: str) -> Curve:
        """All rows with this name, over the steps of the whole run."""
        return self._curves.get(name, Curve((), ()))

    def curves(self, prefix: str) -> dict[str, Curve]:
        """Every curve whose name begins with ``prefix``, by the rest of its name."""
        return {name.removeprefix(prefix): curve for name, curve in self._curves.items() if name.startswith(prefix)}

    @cached_property
    def _curves(self) -> dict[str, Curve]:
        found: dict[str, tuple[list[int], list[float]]] = {}
        for start, stage in zip(self.stage_starts, self.stages, strict=True):
            for row in stage.rows:
                steps, values = found.setdefault(row.name, ([], []))
                steps.append(start + row.step)
                values.append(row.value)
        return {name: Curve(steps, values) for name, (steps, values) in found.items()}


def read_run(run: Path) -> Contents:
    """Read a run folder. Raises UserError if the folder has no run, or if a file in it is damaged."""
    folder = RunFolder(run)
    recipe = _read_recipe(folder.recipe)
    rows = [
        replace(row, name=show_hidden(row.name))
        for row in _read(folder.metrics, lambda path: [*read_metrics(path)]) or ()
    ]
    scores = [
        replace(score, task=show_hidden(score.task), model=_NAMES.get(score.model, score.model))
        for score in _read(folder.scores, read_scores) or ()
    ]
    return Contents(
        name=show_hidden(run.resolve().name),
        # of all keys of a rope, of which the file has the given ones
        recipe_digest=digest_recipe({**recipe, "stages": [read_marked_stage(each) for each in recipe["stages"]]}),
        recipe=show_all(recipe),
        corpus=_read_json(folder.corpus / CORPUS_CONTENT),
        ledger=_read_json(folder.corpus / LEDGER),
        stages=[_read_stage(run, number, spec, rows) for number, spec in enumerate(show_all(recipe["stages"]))],
        scores=scores,
        parity=_read_json(folder.parity),
        versions=show_all(read_manifest(run)["facts"]) if is_finished(run) else _installed(),
        sessions=_read_json(folder.sessions) or (),
        receipt=read_receipt(folder.receipt) if folder.receipt.is_file() else None,
    )


def _read_stage(run: Path, number: int, spec: Mapping[str, Any], rows: Iterable[Metric]) -> StageContents:
    folder = RunFolder(run).stage(number)
    manifest, config = folder.extended / MANIFEST, _read_json(folder.extended / "config.json") or {}
    facts = (_read_json(manifest) or {}).get("facts", {})
    return StageContents(
        number=number,
        spec=spec,
        facts=facts,
        former=_read_layers(manifest, "former"),
        positions=_read_layers(manifest, "positions"),
        rotary_dim=facts.get("rotary_dim")  # a run of before has whole heads
        or config.get("head_dim")
        or config.get("hidden_size", 0) // config.get("num_attention_heads", 1),
        rows=[row for row in rows if row.stage == number],
        finished=is_finished(folder.trained),
        planned=_read_json(folder.mix),
    )


def _read_layers(manifest: Path, key: str) -> tuple[LayerPosition, ...]:
    def parse(path: Path) -> tuple[LayerPosition, ...]:
        noted = json.loads(path.read_text(encoding="utf-8"))["inputs"].get(key, ())
        return tuple(LayerPosition.model_validate(layer) for layer in noted)

    return _read(manifest, parse) or ()


def _read_recipe(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UserError(
            "this is not a run folder",
            where=str(path.parent),
            why="it has no recipe.yaml",
            fix="give the folder that a recipe has as `run`",
        )
    recipe = _read(path, lambda file: yaml.safe_load(file.read_text(encoding="utf-8")))
    if not isinstance(recipe, dict) or not {"model", "stages", "corpus"} <= recipe.keys():
        raise _damaged(path, "it is not a recipe with model, corpus and stages")
    return recipe


def _read_json(path: Path) -> Any:
    return show_all(_read(path, lambda file: json.loads(file.read_text(encoding="utf-8"))))


def _read(path: Path, parse: Any) -> Any:
    """The result of ``parse`` for a file, or None if there is no file."""
    try:
        return parse(path) if path.is_file() else None
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        "a file of the run cannot be read",
        where=str(path),
        why=why,
        fix="remove it and run again the part that writes it",
    )


def _installed() -> dict[str, str]:
    # Sorted as in a manifest, so that the page does not change when the run is sealed.
    versions = find_versions(_PACKAGES) | {"python": platform.python_version()}
    return dict(sorted(versions.items()))
