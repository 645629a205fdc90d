"""The whole run as one frozen value.

Every key has its unit in its name or in its docstring. An unknown key is refused. Rooms before this one own their specs
(rope/, corpus/), and all other specs are here. The digest of the recipe identifies the run.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic_core import core_schema

from ropewalk.core.digest import digest_recipe
from ropewalk.core.quantity import OPEN, Count, PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.corpus.mix_rules import MixRules, check_mix, check_stratum_weights
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.probe.key_value import KeyValue
from ropewalk.probe.kinds import Probe, name_probe
from ropewalk.probe.ruler_task import RulerTask
from ropewalk.recipe.benchmarks import BenchmarkSpec, refuse_same_labels
from ropewalk.recipe.foreign_text import ForeignText, find_shared_path
from ropewalk.recipe.grid import GridSpec
from ropewalk.recipe.hardware_keys import Hardware, read_hardware
from ropewalk.recipe.mark_given import mark_ropes
from ropewalk.recipe.multiple import Multiple
from ropewalk.recipe.no_repeats import refuse_repeats
from ropewalk.recipe.parallel import Parallel as Parallel
from ropewalk.recipe.ruler import RulerSpec
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.trackers import Tracker

MOST_PAIRS = min(KeyValue().keys, KeyValue().values)
"""The most key-value pairs of a retrieval prompt: its words are drawn once each."""


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
    context_length: PositiveCount
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
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        return self


class ModelSource(Spec):
    """``model: {init: ...}`` of a recipe."""

    init: Init
    """The shape of a model with random weights."""


class EvaluateSpec(Spec):
    """What is measured, on base and extended model alike. Lengths are multiples of the base's context."""

    lengths: Annotated[tuple[Multiple, ...], Field(min_length=1), AfterValidator(refuse_repeats)] = (1, 2, 4, 8)
    """Lengths of retrieval, as multiples of the base's context, such as ``[1, 1.5]``."""
    answers: PositiveCount = 1000
    """Teacher-forced answers per length."""
    depths: PositiveCount = 5
    """Bins of the depth that answers are told by."""
    position_lengths: Multiple = 4
    """Loss by position reaches this multiple of the base's context."""
    documents: PositiveCount = 64
    """Held-out documents for loss by position, each at least that long."""
    context_law: bool = False
    """Whether the last quarter of these documents is read at seven contexts, and L(c) fitted (docs/sweep.md)."""
    short_tokens: PositiveCount = 65536
    """Tokens per source for the short-context loss, and for each text of ``foreign``."""
    foreign: tuple[ForeignText, ...] = ()
    """Texts outside the mix, on which the loss must not rise (docs/evaluate.md)."""
    abilities: Count = 0
    """Prompts of each short ability probe: arithmetic, and facts to complete in English and Chinese; 0 reads none."""
    pairs: tuple[PositiveCount, PositiveCount] = (4, 8)
    """Fewest and most key-value pairs of a retrieval prompt."""
    probes: tuple[Probe, ...] = ()
    """Further probes at the same lengths, such as ``{kind: variable_tracking}`` or ``{kind: needle, language: zh}``."""
    grid: GridSpec | None = None
    """Position, filler and length set apart from each other, on three tasks; null measures none of it."""
    ruler: RulerSpec | None = None
    """RULER with its own questions and scoring: the models write text; null measures none of it."""
    benchmarks: Annotated[tuple[BenchmarkSpec, ...], AfterValidator(refuse_same_labels)] = ()
    """Files of LongBench v2, LongBench Pro and HELMET that you have (docs/benchmarks.md): the models write text."""
    seed: int = 1_000_003
    """Draws prompts and held-out text."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; ``auto`` is bfloat16 on a GPU, float32 on a CPU. A CPU that multiplies no bfloat16 reads in
    float32, if its memory allows."""

    @field_validator("pairs")
    @classmethod
    def _check_pairs(cls, given: tuple[int, int]) -> tuple[int, int]:
        """As the probe itself would, but before the training and not after it."""
        if not given[0] <= given[1] <= MOST_PAIRS:
            raise ValueError(f"the fewest come first, and the most are {MOST_PAIRS}, the number of words")
        return given

    @model_validator(mode="after")
    def _check_probes(self) -> "EvaluateSpec":
        """Scores are told apart by their names alone; key-value retrieval is always asked, and judged."""
        ruler = () if self.ruler is None else self.ruler.tasks
        names = [name_probe(each) for each in (KeyValue(), *self.probes, *(RulerTask(task=task) for task in ruler))]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(
                f"probes: {twice} would name two scores; key_value is asked in any case, and ruler has tasks of its own"
            )
        return self

    @field_validator("foreign")
    @classmethod
    def _check_names(cls, given: tuple[ForeignText, ...]) -> tuple[ForeignText, ...]:
        names = [text.name for text in given]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two texts are named {twice[0]}")
        return given


class ExportSpec(Spec):
    dtype: Literal["base", "float32", "bfloat16"] = "base"
    """Of the exported weights; ``base`` is the base's own."""


class ImportSpec(Spec):
    """The overrides of ``ropewalk import``."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the imported weights; float32 holds every dequantised value exactly."""


def open_all(value: object) -> object:
    """``parallel: auto`` leaves every count open; the other keys are ``auto`` by themselves."""
    return {"ranks": "auto", "context_parallel": "auto", "replicas": "auto"} if value == "auto" else value


class _OrAuto:
    """In the JSON Schema: the mapping, or ``auto`` as a whole."""

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"const": "auto", "type": "string"}]}


class Recipe(Spec):
    """A run: which model, on which text, through which stages, on how many ranks, measured how."""

    model: str | ModelSource
    """A folder, ``tiny-base``, ``hub_id@revision``, ``{init: ...}``; to check, also a ``hub_id`` of docs/bases.md."""
    run: str
    """The run folder."""
    seed: int = 0
    """Draws the order of sequences, generated text and first weights."""
    corpus: CorpusSpec
    """The text: sources, mix, and what is kept."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """Lengths to train at, one after another."""
    parallel: Annotated[Parallel, BeforeValidator(open_all), _OrAuto()] = Parallel()
    """How ranks share the work; ``auto`` as a whole leaves ranks, context ranks and replicas to the plan."""
    hardware: str | Hardware | None = None
    """The devices of a node that plans are made for, such as ``h100-sxm x 8`` (docs/plan.md); null is the machine that
    makes the plan. Training uses what it finds. Not part of the recipe's digest."""
    nodes: PositiveCount | None = None
    """Nodes that plans are made for; null is as many as ``parallel.ranks`` need. Not part of the recipe's digest."""
    evaluate: EvaluateSpec = EvaluateSpec()
    """What is measured."""
    export: ExportSpec = ExportSpec()
    """The folder that engines load."""
    trackers: Annotated[tuple[Tracker, ...], AfterValidator(refuse_repeats)] = ()
    """Where metrics are sent besides ``metrics.jsonl``; not part of the recipe's digest (docs/train.md)."""
    mix_study: str | None = None
    """The folder of a ratio study: `check` warns of shares beyond it, and a run of losses outside of its intervals
    (docs/sweep.md). Not part of the recipe's digest."""
    strict: bool = False
    """End with exit code 3 where a target of the report is missed, with 4 where one is undecided, as ``--strict`` does;
    a gate that is undecided stops like one that is missed. Not part of the recipe's digest."""
    trial: bool = False
    """Say in the report that the run is a trial; ``run --fast`` sets it. Not part of the recipe's digest."""

    @property
    def open_keys(self) -> tuple[str, ...]:
        """The counts that are ``auto``, as they are overridden; plan/settle.py decides them."""
        stages = [
            f"stages.{index}.micro_batch_size"
            for index, stage in enumerate(self.stages)
            if stage.micro_batch_size == OPEN
        ]
        return (*(f"parallel.{key}" for key in self.parallel.open_keys), *stages)

    @model_validator(mode="after")
    def _check_folders(self) -> "Recipe":
        for key, folder in (("run", self.run), ("corpus.store", self.corpus.store)):
            if folder.partition("/")[0].startswith("~"):
                raise ValueError(f"{key}: {folder} would be a folder named ~ here; write the path of your home")
        if not Path(self.run).name:  # its parts would lie among other files, and nothing could lie beside it
            raise ValueError("run: give a folder of its own, such as runs/first")
        return self

    @model_validator(mode="after")
    def _check_hardware(self) -> "Recipe":
        if self.hardware is not None:
            read_hardware(self.hardware)
        return self

    @model_validator(mode="after")
    def _check_stage_names(self) -> "Recipe":
        roles = {source.name: source.role for source in self.corpus.sources}
        for index, stage in enumerate(self.stages):
            try:
                check_mix(self.mix(stage), roles)
                check_stratum_weights(stage.languages or {}, stage.lengths or {})
            except ValueError as error:
                raise ValueError(f"stages.{index}.{error}") from None
            unknown = sorted(stage.loss_weights.keys() - roles.keys())
            if unknown:
                raise ValueError(f"stages.{index}.loss_weights.{unknown[0]} names no source: {', '.join(roles)}")
        return self

    @model_validator(mode="after")
    def _check_merges(self) -> "Recipe":
        """Also a stage after one with new mixers: the same names mean other weights in the base."""
        converted = False
        for index, stage in enumerate(self.stages):
            if converted and stage.merge_with_base < 1:
                raise ValueError(
                    f"stages.{index}.merge_with_base: the base has other weights since a stage before has "
                    "mixer: gated_delta"
                )
            converted = converted or stage.converts
        return self

    @model_validator(mode="after")
    def _check_foreign(self) -> "Recipe":
        for text in self.evaluate.foreign:
            named = next((source for source in self.corpus.sources if source.name == text.name), None)
            shared = named or find_shared_path(text, self.corpus.sources)
            if shared is not None:
                same = "has its name" if named else "has its files"
                raise ValueError(
                    f"evaluate.foreign: {text.name} is in the mix: the source {shared.name} {same}, so it does not "
                    "show what training made the model forget"
                )
        for index, stage in enumerate(self.stages):
            if stage.gate is not None and stage.gate.foreign_loss is not None and not self.evaluate.foreign:
                raise ValueError(f"stages.{index}.gate.foreign_loss needs texts in evaluate.foreign")
        return self

    def mix(self, stage: Stage) -> dict[str, float]:
        """Weights of roles or sources in a stage."""
        return self.corpus.mix if stage.mix is None else stage.mix

    def rules(self, stage: Stage) -> MixRules:
        """The rules that deal out the text behind each weight of that mix."""
        own = {name: weights for name in ("languages", "lengths") if (weights := getattr(stage, name)) is not None}
        return self.corpus.model_copy(update=own)

    def to_json(self) -> dict[str, Any]:
        """The recipe with every default filled in, as JSON-like data."""
        return self.model_dump(mode="json")

    @property
    def corpus_seed(self) -> int:
        """The seed of the corpus; ``seed`` is the seed of everything made from it."""
        return self.seed if self.corpus.seed is None else self.corpus.seed

    @property
    def digest(self) -> str:
        """The digest of everything that decides the result."""
        return digest_recipe(mark_ropes(self.to_json(), self.stages))
