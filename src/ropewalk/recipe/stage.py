"""One stage of a run: its length, its positions, its text and its steps."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ropewalk.core.quantity import Count, OpenCount, PositiveCount, format_count
from ropewalk.core.spec import Spec
from ropewalk.recipe.experimental import Experimental
from ropewalk.recipe.expert_training import ExpertTraining
from ropewalk.recipe.gates import Gate, Guard, Share, Stop
from ropewalk.recipe.learned import FEWEST_VALIDATIONS, LEARNED
from ropewalk.recipe.long_ce import LongCE
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.validation import Validation
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.pose import Pose
from ropewalk.rope.scaling import Rope

LossWeight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]


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


_NOT_WITH_MIXERS = {
    "lora": "adapters do not train the new layers",
    "pose": "a state knows no positions to skip",
    "rope_interpolation_steps": "the former model has other layers",
    "merge_with_base": "the base has other weights",
}


class Stage(Spec):
    """One context length of a run."""

    context_length: PositiveCount
    """Length of a packed sequence in tokens; below the model's context only with ``rope: {kind: unchanged}``, and the
    model then reads as far as before."""
    rope: Rope
    """How positions turn into angles (docs/rope.md)."""
    layers: tuple[LayerRule, ...] = ()
    """Lines repeated over the layers, such as ``[{window: 4Ki, rope: unchanged}, {}]``; none: all have the stage's
    ``rope``."""
    experimental: Experimental | None = None
    """Allows what is an experiment: ``mixer: gated_delta`` in ``layers``."""
    pose: Pose | None = None
    """PoSE: positions that reach beyond the length of the sequence."""
    rope_interpolation_steps: Count = 0
    """First steps, in which the frequencies go gradually from the former model's to the new ones; windows change at
    once."""
    tokens: PositiveCount
    """Tokens that the stage trains on."""
    step_tokens: PositiveCount
    """Tokens of one optimizer step over all ranks; rounded to whole sequences."""
    micro_batch_size: OpenCount = 1
    """The most sequences that a data rank takes through the model at once; ``auto`` is the fastest by the plan."""
    lr: float = Field(gt=0)
    """Largest learning rate."""
    schedule: Schedule = Schedule()
    """How the learning rate goes."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's."""
    embedding_lr: float = Field(default=1.0, gt=0)
    """Multiplies the embedding's learning rate; more than 1 only for a model that starts from nothing."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient over all parameters."""
    mix: dict[str, float] | None = None
    """Overrides the corpus's mix for this stage."""
    languages: dict[str, float] | None = None
    """Overrides the corpus's weights of languages."""
    lengths: dict[Count, float] | None = None
    """Overrides the corpus's weights of documents by length: longer sequences may want more long ones."""
    loss_weights: dict[str, LossWeight] = Field(default_factory=dict)
    """Multiplies the loss of a source's tokens, for example where only few tokens of a sequence are answers."""
    z_loss: float = Field(default=0.0, ge=0)
    """Adds this x (log of the softmax's denominator)^2 to each token's loss."""
    long_ce: LongCE | None = None
    """Weighs each token's loss by what full context gives it (docs/train.md)."""
    merge_with_base: Share = 1.0
    """Share of the trained weights in what the stage writes; the rest are those of the run's base. 1 merges nothing."""
    carry_moments: bool = True
    """Whether the optimizer goes on with the moments of the stage before; false begins with fresh ones."""
    lora: Lora | None = None
    """Adapters are trained instead of all weights."""
    experts: ExpertTraining | None = None
    """How a mixture of experts is trained (docs/experts.md)."""
    stop: Stop | None = None
    """Ends the stage as soon as a metric is reached."""
    gate: Gate | None = None
    """The conditions that the model must meet before the next stage builds on it."""
    checkpoint_steps: PositiveCount = 200
    """Steps between two checkpoints."""
    log_steps: PositiveCount = 50
    """Steps between two lines of averaged metrics, and between two checks of ``stop``."""
    validation: Validation | None = None
    """What is measured on held-out text while the stage trains (docs/train.md)."""
    save_total_limit: PositiveCount = 2
    """Checkpoints of this stage to keep, the newest ones that verify."""
    guard: Guard = Guard()
    """Which steps are skipped, and what too many lead to (docs/train.md)."""

    @property
    def reach_tokens(self) -> int:
        """The largest position in tokens: methods are completed for this length, and the model is made for it."""
        return self.context_length if self.pose is None else self.pose.reach

    @property
    def step_sequences(self) -> int:
        """Sequences of a step over all ranks."""
        return max(1, round(self.step_tokens / self.context_length))

    @property
    def steps(self) -> int:
        """The largest number of steps of the stage."""
        steps = max(1, self.tokens // (self.step_sequences * self.context_length))
        return min(steps, self.stop.max_steps) if self.stop else steps

    @property
    def sequences(self) -> int:
        """Sequences of all steps, over all ranks."""
        return self.steps * self.step_sequences

    @property
    def converts(self) -> bool:
        """Whether a line of ``layers`` gives layers another mixer."""
        return any(rule.mixer != "unchanged" for rule in self.layers)

    @model_validator(mode="after")
    def _check_mixers(self) -> "Stage":
        if not self.converts:
            if self.experimental is not None:
                raise ValueError("experimental: it is for layers with mixer: gated_delta, and no line has one")
            return self
        if self.experimental is None:
            raise ValueError(
                "layers: mixer: gated_delta is an experiment; to allow it add experimental: {frozen_steps: 0} to the "
                "stage"
            )
        if self.experimental.frozen_steps > self.steps:
            raise ValueError(f"experimental.frozen_steps: the stage has only {format_count(self.steps, 'step')}")
        for key, why in _NOT_WITH_MIXERS.items():
            if getattr(self, key) != Stage.model_fields[key].default:
                raise ValueError(f"{key}: {why}, so it cannot be used in a stage with mixer: gated_delta")
        return self

    @model_validator(mode="after")
    def _check_lora(self) -> "Stage":
        if self.lora is not None and self.embedding_lr != 1 and not {"embeddings", "head"} & set(self.lora.also_train):
            raise ValueError("embedding_lr: the embedding is frozen; name it in lora.also_train")
        return self

    @model_validator(mode="after")
    def _check_experts(self) -> "Stage":
        if self.lora is not None and self.experts is not None and self.experts.learns:
            raise ValueError(
                "experts: with lora the routers are frozen, so balance_loss, z_loss and bias_update must be 0"
            )
        return self

    @model_validator(mode="after")
    def _check_interpolation(self) -> "Stage":
        if self.rope_interpolation_steps > self.steps:
            raise ValueError(
                f"rope_interpolation_steps: the stage ends after {format_count(self.steps, 'step')}, "
                f"before its {format_count(self.rope_interpolation_steps, 'step')} of interpolation"
            )
        return self

    @model_validator(mode="after")
    def _check_stop(self) -> "Stage":
        if self.stop is not None and self.stop.saturated is not None:
            assert self.stop.measure is not None
            key = LEARNED[self.stop.measure].counted_by
            if self.validation is None or not getattr(self.validation, key):
                raise ValueError(f"stop.saturated: {self.stop.metric} needs validation with {key} above 0")
            first = -(-self.rope_interpolation_steps // self.validation.steps)  # validation steps / validation.steps
            judged = (max(1, first) + FEWEST_VALIDATIONS - 1) * self.validation.steps
            if judged > self.steps:
                raise ValueError(
                    f"stop.saturated: {FEWEST_VALIDATIONS} validations, the fewest that show a trend, are done after "
                    f"{format_count(judged, 'step')}, and the stage ends after {self.steps}; make "
                    "validation.steps smaller, or give "
                    "the stage more tokens or max_steps"
                )
        return self

    @model_validator(mode="after")
    def _check_long_ce(self) -> "Stage":
        if self.long_ce is not None and self.long_ce.block_tokens >= self.context_length:
            raise ValueError(
                f"long_ce: in a sequence of {self.context_length} tokens no token has more than the truncated context"
            )
        if self.long_ce is not None and self.pose is not None:
            raise ValueError(
                "long_ce: with pose, the context of a token is nearer than its positions say, so both cannot be used"
            )
        return self

    @model_validator(mode="after")
    def _check_pose(self) -> "Stage":
        if self.pose is None:
            return self
        if self.pose.reach < self.context_length:
            raise ValueError(
                f"pose.reach, {self.pose.reach} tokens, is shorter than a sequence of {self.context_length}"
            )
        if self.pose.chunks > self.context_length:
            raise ValueError(
                f"pose.chunks: a sequence of {self.context_length} tokens cannot be cut into {self.pose.chunks} chunks"
            )
        for rope in (self.rope, *(rule.rope for rule in self.layers if rule.rope is not None)):
            if rope.depends_on_length:
                raise ValueError(
                    f"pose: {rope.kind} depends on the length of a document, which skip-wise positions do not show"
                )
        if any(rule.window is not None for rule in self.layers):
            raise ValueError(
                "pose: a window counts tokens, so training would meet distances that never occur afterwards"
            )
        return self
