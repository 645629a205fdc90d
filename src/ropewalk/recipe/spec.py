"""The whole run as one frozen value.

Every key has a unit in its name or in its comment; a key that does not exist is refused. The rooms to the left own
their specs (rope/, corpus/); what is left stands here. The digest of the recipe names the run.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ropewalk.core.digest import digest_recipe
from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.corpus.mix_rules import MixRules, check_mix, check_strand_weights
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.probe.kinds import Probe
from ropewalk.recipe.gates import Guard, Promotion, Share, Until
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.panel import Panel
from ropewalk.recipe.parallel import Parallel as Parallel
from ropewalk.recipe.trackers import Tracker
from ropewalk.recipe.weigh import LongCE
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Rope
from ropewalk.rope.skip import Skip

LossWeight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Init(Spec):
    """A new model with random weights of this shape, instead of a base that exists."""

    architecture: Literal["LlamaForCausalLM"] = "LlamaForCausalLM"
    """Class of the model."""
    layers: PositiveCount
    """Blocks."""
    width: PositiveCount
    """Size of a token's vector."""
    heads: PositiveCount
    """Query heads."""
    kv_heads: PositiveCount
    """Key and value heads; a divisor of ``heads``."""
    head_dim: PositiveCount
    """Size of a head."""
    mlp_width: PositiveCount
    """Size of the vector inside an MLP."""
    context: PositiveCount
    """Tokens that the model is made for."""
    theta: float = Field(default=1e4, gt=1)
    """Base frequency of its RoPE."""
    tied: bool = True
    """Whether head and embedding are one matrix."""
    deviation: float = Field(default=0.02, gt=0)
    """Standard deviation of the normal distribution that matrices are drawn from."""
    embedding_deviation: float | None = Field(default=None, gt=0)
    """The embedding's own, where a token's identity must outweigh what the layers write (docs/log.md)."""
    final_norm: float = Field(default=1.0, gt=0)
    """First weights of the last norm: the scale of the first logits where head and embedding are tied."""
    tokenizer: Annotated[PositiveCount | str, Field(union_mode="left_to_right")]
    """A folder with tokenizer.json, or a vocabulary size: then a byte-level BPE is trained on the corpus."""

    @model_validator(mode="after")
    def _check_heads(self) -> "Init":
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} kv_heads evenly")
        return self


class ModelSource(Spec):
    """``model: {init: ...}`` of a recipe."""

    init: Init
    """The shape of a model with random weights."""


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
        """How far positions go: the length that the methods are completed for, and the model is made for."""
        return self.context if self.skip is None else self.skip.reach

    @property
    def step_rows(self) -> int:
        """Rows of a step over all ranks."""
        return max(1, round(self.step_tokens / self.context))

    @property
    def steps(self) -> int:
        """Steps of the stage at most."""
        steps = max(1, self.tokens // (self.step_rows * self.context))
        return min(steps, self.until.max_steps) if self.until else steps

    @property
    def rows(self) -> int:
        """Rows of all steps, over all ranks."""
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


class EvaluateSpec(Spec):
    """What is measured, on base and extended model alike. Lengths are multiples of the base's context."""

    lengths: tuple[PositiveCount, ...] = (1, 2, 4, 8)
    """Lengths of retrieval, as multiples of the base's context."""
    answers: PositiveCount = 1000
    """Teacher-forced answers per length."""
    depths: PositiveCount = 5
    """Bins of the depth that answers are told by."""
    position_lengths: PositiveCount = 4
    """Loss by position reaches this multiple of the base's context."""
    documents: PositiveCount = 64
    """Held-out documents for loss by position, each at least that long."""
    short_tokens: PositiveCount = 65536
    """Held-out tokens per source for the short-context loss."""
    pairs: tuple[PositiveCount, PositiveCount] = (4, 8)
    """Fewest and most key-value pairs of a retrieval prompt."""
    probes: tuple[Probe, ...] = ()
    """Further probes at the same lengths, such as ``{kind: variable_tracking}`` or ``{kind: needle, language: zh}``."""
    seed: int = 1_000_003
    """Draws prompts and held-out text."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products."""


class ExportSpec(Spec):
    dtype: Literal["base", "float32", "bfloat16"] = "base"
    """Of the exported weights; ``base`` is the base's own."""


class Recipe(Spec):
    """A run: which model, on which text, through which stages, on how many ranks, measured how."""

    model: str | ModelSource
    """A folder, ``tiny-base``, ``hub_id@revision``, or ``{init: ...}``."""
    run: str
    """The run folder."""
    seed: int = 0
    """Draws the order of rows, generated text and first weights."""
    corpus: CorpusSpec
    """The text: sources, mix, and what is kept."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """Lengths to train at, one after another."""
    parallel: Parallel = Parallel()
    """How ranks share the work."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """What is measured."""
    export: ExportSpec = ExportSpec()
    """The folder that engines load."""
    trackers: tuple[Tracker, ...] = ()
    """Where rows are sent besides ``rows.jsonl``; not part of the recipe's digest (docs/train.md)."""
    strict: bool = False
    """End with exit code 3 where a target of the report is missed, with 4 where one is undecided, as ``--strict`` does;
    a gate that is undecided stops as one that is missed. Not part of the recipe's digest."""

    @model_validator(mode="after")
    def _check_stage_names(self) -> "Recipe":
        roles = {source.name: source.role for source in self.corpus.sources}
        for index, stage in enumerate(self.stages):
            try:
                check_mix(self.mix(stage), roles)
                check_strand_weights(stage.languages or {}, stage.lengths or {})
            except ValueError as error:
                raise ValueError(f"stages.{index}.{error}") from None
            unknown = sorted(stage.loss_weights.keys() - roles.keys())
            if unknown:
                raise ValueError(f"stages.{index}.loss_weights.{unknown[0]} names no source: {', '.join(roles)}")
        return self

    def mix(self, stage: Stage) -> dict[str, float]:
        """Weights of roles or sources in a stage."""
        return self.corpus.mix if stage.mix is None else stage.mix

    def rules(self, stage: Stage) -> MixRules:
        """How the text behind each weight of that mix is dealt out."""
        own = {name: weights for name in ("languages", "lengths") if (weights := getattr(stage, name)) is not None}
        return self.corpus.model_copy(update=own)

    def to_json(self) -> dict[str, Any]:
        """The recipe with every default filled in, as JSON-like data."""
        return self.model_dump(mode="json")

    @property
    def corpus_seed(self) -> int:
        """Draws the corpus; ``seed`` draws what is made of it."""
        return self.seed if self.corpus.seed is None else self.corpus.seed

    @property
    def digest(self) -> str:
        """Names everything that decides the result."""
        return digest_recipe(self.to_json())
