"""RULER's 13 tasks with the questions of the original: their names, options and what a model must write.

The wording of the questions, the parameters, the number of generated tokens and the scoring are those of the benchmark
(Hsieh et al. 2024, arXiv 2404.06654; its templates are published under Apache-2.0), because a score means something
only for the same question. The rest of the text is our own: words, sentences between needles, and documents with
questions; a user may give essays and questions of their own. Where text is our own, published scores of
``niah_single_2``, ``niah_single_3``, ``niah_multikey_1``, ``niah_multivalue``, ``niah_multiquery``, ``qa_1`` and
``qa_2`` are near but not comparable.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ropewalk.core.spec import Spec
from ropewalk.probe.prompt import Prompt

RulerName = Literal[
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
    "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2",
]  # fmt: skip
RULER_NAMES: tuple[RulerName, ...] = get_args(RulerName)
_CONTROL = re.compile(r"[\x00-\x1f]")


class RulerTask(Spec):
    """One of RULER's 13 tasks."""

    kind: Literal["ruler"] = "ruler"
    task: RulerName
    """Its name in RULER; ``niah_single_1``, ``niah_multikey_2``, ``niah_multikey_3``, ``vt``, ``cwe`` and ``fwe`` need
    no text from elsewhere."""
    essays: str | None = None
    """A .txt file whose sentences lie between the needles of the tasks with essays; null: plain sentences of ours."""
    questions: str | None = None
    """SQuAD's or HotpotQA's JSON file for ``qa_1`` and ``qa_2``; null: questions about people whom we invent."""
    example: bool = True
    """Whether ``vt`` and ``cwe`` begin with a solved example, as the original does. lm-eval gives ``cwe`` none."""

    @property
    def generated_tokens(self) -> int:
        """Tokens that a model may write."""
        return {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}.get(self.task, 128)


@dataclass(frozen=True, slots=True)
class RulerSample:
    """A prompt that holds its answers, and what must stand in the text that a model writes in their place.

    The model reads ``prompt.text`` up to the first answer.
    """

    prompt: Prompt
    references: tuple[str, ...]
    any_reference: bool = False
    """One of the references is enough (``qa_1``, ``qa_2``)."""

    @property
    def question(self) -> str:
        """The text that a model continues."""
        return self.prompt.text[: self.prompt.answers[0][0]]

    def match(self, written: str) -> float:
        """The share of references that ``written`` holds, without regard to case; with ``any_reference`` 1 or 0."""
        return match_strings(written, self.references, any_reference=self.any_reference)


def match_strings(written: str, references: Sequence[str], *, any_reference: bool = False) -> float:
    """RULER's ``string_match_all`` of one sample in [0, 1]; with ``any_reference`` its ``string_match_part``."""
    text = _CONTROL.sub("\n", written.strip()).strip().lower()
    found = [reference.lower() in text for reference in references]
    return float(any(found)) if any_reference else sum(found) / len(found)
