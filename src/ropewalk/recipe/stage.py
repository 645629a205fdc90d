"""One stage of a run: its length, its positions, its text and its steps."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.recipe.gates import Guard, Promotion, Share, Until
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.panel import Panel
from ropewalk.recipe.weigh import LongCE
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.pose import Skip
from ropewalk.rope.scaling import Rope

LossWeight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Schedule(Spec):
    """Learning rate over a stage: linear warm-up, then a shape down to ``floor`` x the peak."""

    shape: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the rate goes down after the warm-up."""
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """Share of the stage's steps."""
    decay: Share = 0.2
    """Share of the stage's steps in which ``wsd`` goes down."""
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """How ``wsd`` goes down; along 1 - sqrt in Hägele et al., 2405.18392."""
    floor: float = Field(default=0.1, ge=0, le=1)
    """The last rate, as a share of the peak."""


class Stage(Spec):
    """One context length of a run."""

    context: PositiveCount
    """Row length in tokens."""
    rope: Rope
    """How positions turn into angles (docs/rope.md)."""
    layers: tuple[LayerRule, ...] = ()
    """Lines repeated over the layers, such as ``[{window: 4Ki, rope: unchanged}, {}]``; none: all have the stage's
    ``rope``."""
    skip: Skip | None = None
    """Positions that reach beyond the row's length."""
    anneal_steps: Count = 0
    """First steps, in which frequencies go gradually from the former model's to the new ones; windows hold at once."""
    tokens: PositiveCount
    """Tokens that the stage trains on."""
    step_tokens: PositiveCount
    """Tokens of one optimizer step over all ranks; rounded to whole rows."""
    micro_rows: PositiveCount = 1
    """Rows that one data rank takes through the model at once."""
    lr: float = Field(gt=0)
    """Largest learning rate."""
    schedule: Schedule = Schedule()
    """How the learning rate goes."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    embedding_lr: float = Field(default=1.0, gt=0)
    """Multiplies the embedding's learning rate; more than 1 only for a model that starts from nothing."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient over all parameters."""
    mix: dict[str, float] | None = None
    """Overrides the corpus's mix for this stage."""
    languages: dict[str, float] | None = None
    """Overrides the corpus's weights of languages."""
    lengths: dict[Count, float] | None = None
    """Overrides the corpus's weights of documents by length: longer rows may want more long ones."""
    loss_weights: dict[str, LossWeight] = Field(default_factory=dict)
    """Multiplies the loss of a source's tokens, where few tokens of a row are answers and must still be heard."""
    z_loss: float = Field(default=0.0, ge=0)
    """Adds this x (log of the softmax's denominator)^2 to each token's loss."""
    long_ce: LongCE | None = None
    """Weighs each token's loss by what far context gives it (docs/train.md)."""
    blend: Share = 1.0
    """Share of the trained weights in what the stage writes; the rest is those of the run's base."""
    carry_moments: bool = True
    """Whether the optimizer goes on with the moments of the stage before; false begins with fresh ones."""
    lora: Lora | None = None
    """Adapters are trained instead of all weights."""
    until: Until | None = None
    """Ends the stage as soon as a metric is reached."""
    promote: Promotion | None = None
    """What the model must be before the next stage builds on it."""
    checkpoint_steps: PositiveCount = 200
    """Steps between two checkpoints."""
    panel_steps: PositiveCount = 50
    """Steps between two rows of averaged metrics, and between checks of ``until``."""
    panel: Panel | None = None
    """What held-out text is asked for while the stage trains (docs/train.md)."""
    keep: PositiveCount = 2
    """Checkpoints of this stage to keep, the newest ones that verify."""
    guard: Guard = Guard()
    """Which steps are skipped, and what too many lead to (docs/train.md)."""

    @property
    def reach_tokens(self) -> int:
        """The largest position in tokens: methods are completed for this length, and the model is made for it."""
        return self.context if self.skip is None else self.skip.reach

    @property
    def step_rows(self) -> int:
        """Sequences of a step over all ranks."""
        return max(1, round(self.step_tokens / self.context))

    @property
    def steps(self) -> int:
        """The largest number of steps of the stage."""
        steps = max(1, self.tokens // (self.step_rows * self.context))
        return min(steps, self.until.max_steps) if self.until else steps

    @property
    def rows(self) -> int:
        """Sequences of all steps, over all ranks."""
        return self.steps * self.step_rows

    @model_validator(mode="after")
    def _check_lora(self) -> "Stage":
        if self.lora is not None and self.embedding_lr != 1 and not {"embeddings", "head"} & set(self.lora.also_train):
            raise ValueError("embedding_lr: the embedding is frozen; name it in lora.also_train")
        return self

    @model_validator(mode="after")
    def _check_annealing(self) -> "Stage":
        if self.anneal_steps > self.steps:
            raise ValueError(
                f"anneal_steps: the stage ends after {self.steps} steps, with {self.anneal_steps} not at its positions"
            )
        return self

    @model_validator(mode="after")
    def _check_long_ce(self) -> "Stage":
        if self.long_ce is not None and self.long_ce.block_tokens >= self.context:
            raise ValueError(f"long_ce: in a row of {self.context} tokens none has more than near context before it")
        if self.long_ce is not None and self.skip is not None:
            raise ValueError("long_ce: with skip, a row's tokens have no context as far away as their positions say")
        return self

    @model_validator(mode="after")
    def _check_skip(self) -> "Stage":
        if self.skip is None:
            return self
        if self.skip.reach < self.context:
            raise ValueError(f"skip.reach, {self.skip.reach} tokens, is shorter than a row of {self.context}")
        if self.skip.chunks > self.context:
            raise ValueError(f"skip.chunks: a row of {self.context} tokens has no {self.skip.chunks} parts")
        for rope in (self.rope, *(rule.rope for rule in self.layers if rule.rope is not None)):
            if rope.depends_on_length:
                raise ValueError(f"skip: {rope.kind} turns by a document's length, which its positions do not tell")
        if any(rule.window is not None for rule in self.layers):
            raise ValueError("skip: a window counts tokens, so it would meet distances that it never meets afterwards")
        return self
