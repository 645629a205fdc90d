"""The paths of all files of a run. Only this file and the rooms that write inside a folder use these names."""

from dataclasses import dataclass
from pathlib import Path

from ropewalk.core.artifact import MANIFEST, is_finished
from ropewalk.core.error import UserError
from ropewalk.recipe.spec import ModelSource, Recipe
from ropewalk.shape.find import find_model
from ropewalk.shape.weight_files import weight_files


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def holds_work(self) -> bool:
        """True if anything was made for the recipe in this folder; if not, a corrected recipe may replace it."""
        return any(path.exists() for path in (self.tokenizer, self.initial, self.corpus, self.root / "stages"))

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that is trained on the corpus, for a model that starts from nothing."""
        return self.root / "tokenizer"

    @property
    def initial(self) -> Path:
        """The random weights of a model that starts from nothing."""
        return self.root / "initial"

    @property
    def corpus(self) -> Path:
        return self.root / "corpus"

    @property
    def corpus_page(self) -> Path:
        """The figures of ``ropewalk corpus report`` as a page for people."""
        return self.root / "corpus.html"

    @property
    def corpus_survey(self) -> Path:
        """The same figures for programs."""
        return self.root / "corpus.json"

    def extended(self, stage: int) -> Path:
        return self.root / "stages" / str(stage) / "extended"

    def factors(self, stage: int) -> Path:
        """LongRoPE's factors from a search, for a stage that leaves them open."""
        return self.root / "stages" / str(stage) / "factors.json"

    def checkpoints(self, stage: int) -> Path:
        return self.root / "stages" / str(stage) / "checkpoints"

    def checkpoint(self, stage: int, step: int) -> Path:
        return self.checkpoints(stage) / f"step-{step:08}"

    def list_steps(self, stage: int) -> list[int]:
        """The steps of the stage's finished checkpoints, by their names, newest first."""
        manifests = self.checkpoints(stage).glob(f"step-*/{MANIFEST}")
        return sorted((int(path.parent.name.removeprefix("step-")) for path in manifests), reverse=True)

    def newest_step(self, stage: int) -> int:
        """The step of the stage's newest finished checkpoint, by its name; 0 before the first."""
        return next(iter(self.list_steps(stage)), 0)

    def is_trained(self, stage: int) -> bool:
        """True if removing the stage's folder would lose training."""
        return is_finished(self.trained(stage)) or bool(self.list_steps(stage))

    def rollbacks(self, stage: int) -> Path:
        """Every automatic return of the stage to an earlier checkpoint (train/rollback.py)."""
        return self.root / "stages" / str(stage) / "rollbacks.json"

    def base_loss(self, stage: int) -> Path:
        """The base's losses that the stage's panels compare with (train/validation.py)."""
        return self.root / "stages" / str(stage) / "base-short-loss.json"

    def trained(self, stage: int) -> Path:
        """The stage's last weights in float32, as a model folder."""
        return self.root / "stages" / str(stage) / "trained"

    def promotion(self, stage: int) -> Path:
        """The results of the stage's gates."""
        return self.root / "stages" / str(stage) / "promotion.json"

    @property
    def scores(self) -> Path:
        return self.root / "scores.json"

    @property
    def rows(self) -> Path:
        return self.root / "rows.jsonl"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def parity(self) -> Path:
        """The difference between the export's logits and the trained model's, by place in a text."""
        return self.root / "parity.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def made_by(self, part: str, *, stages: int) -> list[Path]:
        """The artifacts of a part; they may not exist yet."""
        every = range(stages)
        return {
            "prepare": [self.corpus],
            "extend": [self.extended(0)],
            "train": [self.trained(stage) for stage in every],
            "evaluate": [self.scores],
            "export": [self.export, self.parity],
            "report": [self.report],
        }[part]

    def stage_input(self, recipe: Recipe, stage: int) -> Path:
        """The model folder that a stage extends."""
        return self.trained(stage - 1) if stage else self.base(recipe)

    def base(self, recipe: Recipe) -> Path:
        """The model folder that the run starts from. Raises UserError where the base lacks weight files."""
        if isinstance(recipe.model, ModelSource):
            return self.initial
        base = find_model(recipe.model)
        weight_files(base)  # before hours of preparing text
        return base


def require(folder: Path, *, verb: str) -> Path:
    """Return ``folder`` if it is finished. Otherwise raise a UserError that names the verb to run first."""
    if not is_finished(folder):
        raise UserError(
            "a part that this one stands on is not done",
            where=str(folder),
            why="it is missing or unfinished",
            fix=f"run `ropewalk {verb} RECIPE` first, or `ropewalk run RECIPE` for all parts",
        )
    return folder


def require_new(out: Path) -> None:
    """Raise UserError if the new folder ``out`` exists already."""
    if out.exists():
        raise UserError(
            "the new folder is there already",
            where=str(out),
            why="nothing is ever overwritten",
            fix="name another folder, or remove it",
        )
