"""Published benchmarks whose data the user has on disk: ``evaluate.benchmarks`` (docs/benchmarks.md)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ropewalk.core.quantity import Count, PositiveCount
from ropewalk.core.spec import Spec
from ropewalk.probe.benchmark_question import BenchmarkData
from ropewalk.probe.helmet import read_json_kv, read_niah, read_rag
from ropewalk.probe.longbench import read_longbench_pro, read_longbench_v2
from ropewalk.probe.prompt import Language
from ropewalk.recipe.foreign_text import FOREIGN_NAME

BenchmarkKind = Literal["longbench_v2", "longbench_pro", "helmet_rag", "helmet_json_kv", "helmet_niah"]
_NOT_SCORED = {
    "helmet_longqa": "a judge model scores it",
    "helmet_summ": "a judge model scores it",
    "helmet_cite": "a model of entailment scores it",
    "helmet_rerank": "its rankings are not scored here",
    "helmet_icl": "its labels are not scored here",
}
_WITH_SHOTS = ("helmet_rag", "helmet_json_kv")
_WITH_BEGIN = ("longbench_v2", "longbench_pro")


def _refuse_judged(kind: object) -> object:
    if isinstance(kind, str) and kind in _NOT_SCORED:
        raise ValueError(f"{kind} is not measured: {_NOT_SCORED[kind]}")
    return kind


class BenchmarkSpec(Spec):
    """A file of LongBench v2, LongBench Pro or HELMET; models write their answers."""

    kind: Annotated[BenchmarkKind, BeforeValidator(_refuse_judged)]
    """The benchmark, and for HELMET the form of the file."""
    path: str
    """Its file, as its authors publish it: .json or .jsonl."""
    name: Annotated[str, Field(pattern=FOREIGN_NAME)] | None = None
    """Names it in scores; null: its kind."""
    context_length: PositiveCount | None = None
    """Tokens of prompt and answer; a longer prompt is cut, and counted. Null: the longest of ``lengths``."""
    samples: PositiveCount | None = None
    """At most so many different questions, drawn by the seed; null: all."""
    generated_tokens: PositiveCount | None = None
    """Tokens that a model may write; null: as many as in the benchmark."""
    language: Language | None = None
    """LongBench Pro's questions in this language only; null: both."""
    begin_answer: bool = True
    """LongBench: the prompt ends with the first words of the answer, for a model that continues text."""
    shots: Count = 2
    """Solved examples before each question of ``helmet_rag`` (from ``demos``) and ``helmet_json_kv``."""
    demos: str | None = None
    """The file with the solved examples of ``helmet_rag``."""

    @model_validator(mode="after")
    def _check_keys(self) -> "BenchmarkSpec":
        unused = {
            "language": self.kind != "longbench_pro",
            "begin_answer": self.kind not in _WITH_BEGIN,
            "shots": self.kind not in _WITH_SHOTS,
            "demos": self.kind != "helmet_rag",
        }
        for key, is_unused in unused.items():
            # not model_fields_set: the recipe in a run folder has every key
            if is_unused and getattr(self, key) != BenchmarkSpec.model_fields[key].default:
                raise ValueError(f"{key} has no effect on {self.kind}")
        if self.kind == "helmet_rag" and (self.shots > 0) != (self.demos is not None):
            raise ValueError("helmet_rag needs a file of solved examples in demos, or shots: 0 and no demos")
        return self

    @property
    def label(self) -> str:
        """The name in scores."""
        return self.name or self.kind

    @property
    def files(self) -> list[Path]:
        """What is read."""
        return [Path(path) for path in (self.path, self.demos) if path is not None]

    def read(self) -> BenchmarkData:
        """The questions. Raises UserError where a file is not of this kind."""
        path = Path(self.path)
        match self.kind:
            case "longbench_v2":
                return read_longbench_v2(path, begin_answer=self.begin_answer)
            case "longbench_pro":
                return read_longbench_pro(path, language=self.language, begin_answer=self.begin_answer)
            case "helmet_rag":
                return read_rag(path, demos=None if self.demos is None else Path(self.demos), shots=self.shots)
            case "helmet_json_kv":
                return read_json_kv(path, shots=self.shots)
            case "helmet_niah":
                return read_niah(path)


def refuse_same_labels(given: tuple[BenchmarkSpec, ...]) -> tuple[BenchmarkSpec, ...]:
    """Raise ValueError where two benchmarks would have the same scores."""
    found = [(each.label, each.context_length) for each in given]
    if twice := next((each for each in found if found.count(each) > 1), None):
        raise ValueError(f"two benchmarks are named {twice[0]} at one length; give each a name")
    return given
