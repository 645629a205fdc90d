"""The paths of a run folder, and of what other rooms read in its parts. Only this file spells their names.

The architecture test takes the names from here, and finds them where another file spells them.
"""

from dataclasses import dataclass
from pathlib import Path

from ropewalk.core.artifact import MANIFEST, is_finished

CARD = "corpus-card.md"
CORPUS_CONTENT, LEDGER = "corpus.json", "ledger.json"
"""In the folder of a corpus: what it holds, and what became of all documents."""
CHECKPOINT_STATE = "state.json"
"""In the folder of a checkpoint: everything that is not a tensor."""
RESULTS = "results.json"
"""In the folder of a study: the scores of all its cells."""


def name_checkpoint(step: int) -> str:
    """The name of the folder of the checkpoint after ``step`` steps."""
    return f"step-{step:08}"


@dataclass(frozen=True, slots=True)
class StageFolder:
    """The paths of one stage of a run, ``run/stages/N``."""

    root: Path

    @property
    def extended(self) -> Path:
        """The model folder that the stage starts from."""
        return self.root / "extended"

    @property
    def factors(self) -> Path:
        """The factors that a search for LongRoPE found, where the stage leaves them open."""
        return self.root / "factors.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def saves(self) -> Path:
        """The last save that was begun, and the last one that is complete (checkpoint/save_record.py)."""
        return self.root / "saves.json"

    @property
    def rollbacks(self) -> Path:
        """Every time that the stage went back by itself (train/rollback.py)."""
        return self.root / "rollbacks.json"

    @property
    def skipped(self) -> Path:
        """The sequences of skipped steps (train/skipped.py)."""
        return self.root / "skipped"

    @property
    def mix(self) -> Path:
        """The planned share of each source, for the report."""
        return self.root / "mix.json"

    @property
    def base_loss(self) -> Path:
        """The base's losses that validations compare with (train/validation.py)."""
        return self.root / "base-short-loss.json"

    @property
    def retrieval_heads(self) -> Path:
        """The base's heads that retrieve (evaluate/needle_shares.py)."""
        return self.root / "retrieval-heads.json"

    @property
    def trained(self) -> Path:
        """The stage's last weights in float32, as a model folder."""
        return self.root / "trained"

    @property
    def gate(self) -> Path:
        """The verdicts of the stage's gates."""
        return self.root / "gate.json"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run."""

    root: Path

    @property
    def failed_preparation(self) -> Path:
        """Beside the folder: why a preparation failed that others wait for (commands/wait_corpus.py)."""
        return self.root.with_name(f"{self.root.name}.prepare-failed")

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def holds_work(self) -> bool:
        """True if anything was made for the recipe in this folder; if not, a corrected recipe may replace it."""
        return any(path.exists() for path in (self.tokenizer, self.initial, self.corpus, self.stages))

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
        return self.root / CORPUS_CONTENT

    @property
    def corpus_card(self) -> Path:
        """The data card of ``ropewalk corpus card`` and ``report``."""
        return self.root / CARD

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    def stage(self, number: int) -> StageFolder:
        """The folder of stage ``number``."""
        return StageFolder(self.stages / str(number))

    def extended(self, stage: int) -> Path:
        return self.stage(stage).extended

    def factors(self, stage: int) -> Path:
        """LongRoPE's factors from a search, for a stage that leaves them open."""
        return self.stage(stage).factors

    def checkpoints(self, stage: int) -> Path:
        return self.stage(stage).checkpoints

    def checkpoint(self, stage: int, step: int) -> Path:
        return self.checkpoints(stage) / name_checkpoint(step)

    def checkpoint_state(self, stage: int, step: int) -> Path:
        """The counters of a checkpoint, with the rates by which its steps were taken."""
        return self.checkpoint(stage, step) / CHECKPOINT_STATE

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
        return self.stage(stage).rollbacks

    def base_loss(self, stage: int) -> Path:
        """The base's losses that the stage's validations compare with (train/validation.py)."""
        return self.stage(stage).base_loss

    def trained(self, stage: int) -> Path:
        """The stage's last weights in float32, as a model folder."""
        return self.stage(stage).trained

    def gate(self, stage: int) -> Path:
        """The results of the stage's gates."""
        return self.stage(stage).gate

    @property
    def scores(self) -> Path:
        return self.root / "scores.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def sessions(self) -> Path:
        """The means of each session of training (train/sessions.py)."""
        return self.root / "sessions.json"

    @property
    def trackers(self) -> Path:
        return self.root / "trackers"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def parity(self) -> Path:
        """The difference between the export's logits and the trained model's, by place in a text."""
        return self.root / "parity.json"

    @property
    def receipt(self) -> Path:
        """What the training took (plan/receipt.py)."""
        return self.root / "receipt.json"

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
            "report": [self.report, self.receipt],
        }[part]
