"""Questions about a document that a model wrote, of which only those are kept whose answer a program finds there.

A model is asked about passages of the first three quarters, so that an answer lies far before its question. All others
are counted by the reason of their rejection.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ropewalk.corpus.join.endpoint import Endpoint
from ropewalk.corpus.join.task_text import Text
from ropewalk.corpus.join.task_wordings import REQUESTS
from ropewalk.corpus.task_rules import WrittenRules
from ropewalk.corpus.text.reject import spell_name

_FENCED = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_LONGEST_ANSWER, _LONGEST_QUESTION = 240, 600


class WrittenQuestion(NamedTuple):
    """A question, its answer, and the digest of the request that it answers."""

    question: str
    answer: str
    request: str


class QuestionWriter:
    """Questions for documents, with counts of what became of them."""

    def __init__(self, rules: WrittenRules, endpoint: Endpoint) -> None:
        self._rules, self._endpoint = rules, endpoint
        self.counts: Counter[str] = Counter(requests=0, kept=0)
        """Requests, questions that were kept, and those that were rejected, by reason."""

    def write(self, text: Text) -> list[WrittenQuestion]:
        """The questions about a text, in the order of its passages. Raises UserError where the model is silent."""
        form = REQUESTS[text.language]
        passages = cut_passages(text, count=self._rules.sections, characters=self._rules.section_characters)
        answers = self._endpoint.ask([form.format(n=self._rules.questions, text=passage) for passage in passages])
        self.counts["requests"] += len(answers)
        found: dict[str, WrittenQuestion] = {}
        for passage, (request, answer) in zip(passages, answers, strict=True):
            if answer is None:
                self.counts["the model refused the request"] += 1
                continue
            for number, pair in enumerate(parse_reply(answer)):
                asked = number < self._rules.questions
                reason = judge_question(pair, text, passage, known=found) if asked else "more than were asked for"
                self.counts[reason or "kept"] += 1
                if reason is None:
                    question, words = pair["question"].strip(), pair["answer"].strip()
                    found[question] = WrittenQuestion(question, words, request)
        return [*found.values()]


def cut_passages(text: Text, *, count: int, characters: int) -> list[str]:
    """At most ``count`` passages of the first three quarters, of ``characters`` or less, each from a line's begin."""
    early = text.text[: text.early]
    count = min(count, -(-len(early) // characters))
    found: dict[str, None] = {}
    for number in range(count):
        at = number * len(early) // count
        at = early.find("\n", at) + 1 if number else 0
        passage = early[at : at + characters].strip()
        if passage and (at or not number):
            found[passage] = None
    return [*found]


def parse_reply(answer: str) -> Iterator[Any]:
    """What a model gave as questions; one ``None`` where it gave no list."""
    fenced = _FENCED.search(answer)
    try:
        given = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        given = None
    yield from given if isinstance(given, list) and given else [None]


def judge_question(pair: Any, text: Text, passage: str, *, known: Sequence[str] | dict[str, Any]) -> str | None:
    """Why a question is not used; None where it is."""
    if not isinstance(pair, dict):
        return "no list of questions"
    question, answer = pair.get("question"), pair.get("answer")
    if not (isinstance(question, str) and question.strip() and isinstance(answer, str) and answer.strip()):
        return "no question or no answer"
    question, answer = question.strip(), answer.strip()
    if spell_name(question) != question:
        return "half a surrogate pair"  # which JSON may spell, and no tokenizer reads
    if len(question) > _LONGEST_QUESTION or len(answer) > _LONGEST_ANSWER or "\n" in question + answer:
        return "too long"
    if answer not in passage or text.text.find(answer) >= text.early:
        return "the answer is not in the passage"
    if answer.lower() in question.lower():
        return "the question holds the answer"
    if question in known:
        return "asked before"
    return None
