"""HELMET's recall and RAG tasks: their JSON lines, prompts and scores (Yen et al. 2024, 2410.02694).

The prompts are those of the benchmark (published under MIT), because a score means something only for the same
question. Tasks of HELMET with a judge model, with rankings, citations or labels are refused where a recipe is read.
"""

import hashlib
import math
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.probe.benchmark_question import BenchmarkData, BenchmarkQuestion, never_ends
from ropewalk.probe.benchmark_records import find_text, find_texts, read_benchmark_records, refuse_record

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_POPULAR = 3
"""PopQA's questions about things with 10^3 views a month and more are left out, as in the benchmark."""

Record = Mapping[str, Any]


def _normalize(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def match_substring(references: Sequence[str], written: str) -> float:
    """1 where the text holds one of the references, without regard to case, punctuation and articles."""
    text = _normalize(written)
    return float(any(_normalize(each) in text for each in references))


def match_recall(references: Sequence[str], written: str) -> float:
    """The share of references that the text holds, without regard to case."""
    text = written.lower()
    return sum(each.lower() in text for each in references) / len(references)


def read_rag(path: Path, *, demos: Path | None, shots: int) -> BenchmarkData:
    """Questions with retrieved documents, and ``shots`` solved ones of ``demos`` before each.

    Which ones is drawn by the digest of the question. Raises UserError for a file of another form.
    """
    asked = _list_rag(path)
    solved = [] if demos is None else _list_rag(demos)
    questions = [_ask_rag(place, record, solved, shots) for place, record in asked]
    return BenchmarkData(questions, 20, "end", "substring_match")


def _list_rag(path: Path) -> list[tuple[str, Record]]:
    return [(place, record) for place, record in read_benchmark_records(path) if not _is_popular(record, place)]


def _is_popular(record: Record, place: str) -> bool:
    views = record.get("s_pop")
    if views is None:
        return False
    if not isinstance(views, int | float) or views <= 0:
        raise refuse_record(place, f"s_pop is {views!r}, not a number above 0")
    return math.log10(views) >= _POPULAR


def _ask_rag(place: str, record: Record, solved: Sequence[tuple[str, Record]], shots: int) -> BenchmarkQuestion:
    question = find_text(record, "question", place)
    shown = "".join(f"{_solve(*each)}\n\n" for each in _draw(solved, _key(record, place), shots))
    return BenchmarkQuestion(
        before=(
            "Use the given documents to write a concise and short answer to the question. Write your answer in the "
            f"following format:\nAnswer: [answer]\n\n{shown}"
        ),
        context=_join_documents(record, place),
        after=f"\n\nQuestion: {question}\nAnswer:",
        begin="",
        references=find_texts(record, "answers", place),
        match=match_substring,
        group=_key(record, place),
        ends=_has_line,
    )


def _has_line(written: str) -> bool:
    return "\n" in written


def _key(record: Record, place: str) -> str:
    return str(record["id"]) if "id" in record else find_text(record, "question", place)


def _draw(solved: Sequence[tuple[str, Record]], key: str, shots: int) -> list[tuple[str, Record]]:
    """Different questions than ``key``, in an order that its digest decides."""
    digest = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2**31
    found: dict[str, tuple[str, Record]] = {}
    for number in np.random.default_rng(digest).permutation(len(solved)).tolist():
        if len(found) == shots:
            break
        place, record = solved[number]
        if _key(record, place) != key:
            found.setdefault(_key(record, place), solved[number])
    return list(found.values())


def _solve(place: str, record: Record) -> str:
    answer = find_texts(record, "answers", place)[0]
    return f"{_join_documents(record, place)}\n\nQuestion: {find_text(record, 'question', place)}\nAnswer: {answer}"


def _join_documents(record: Record, place: str) -> str:
    documents = record.get("ctxs")
    if not isinstance(documents, list) or not all(isinstance(each, Mapping) for each in documents):
        raise refuse_record(place, "ctxs is not a list of documents with title and text")
    return "\n\n".join(
        f"Document (Title: {find_text(each, 'title', place)}): {find_text(each, 'text', place)}" for each in documents
    )


def read_json_kv(path: Path, *, shots: int) -> BenchmarkData:
    """A JSON object with a key to look up; the first ``shots`` of a record's ``demos`` are solved before it."""
    questions = [_ask_json_kv(place, record, shots) for place, record in read_benchmark_records(path)]
    return BenchmarkData(questions, 100, "end", "substring_match")


def _ask_json_kv(place: str, record: Record, shots: int) -> BenchmarkQuestion:
    demos = record.get("demos", [])
    if not isinstance(demos, list) or len(demos) < shots or not all(_is_pair(each) for each in demos):
        raise refuse_record(place, f"demos is not a list of {shots} or more pairs of texts")
    shown = "".join(f"Key: {key}\nCorresponding value: {value}\n\n" for key, value in demos[:shots])
    asked = "Extract the value corresponding to the specified key in the JSON object below."
    return BenchmarkQuestion(
        before="",
        context=find_text(record, "context", place),
        after=f"\n\n{asked}\n\n{shown}Key: {find_text(record, 'question', place)}\nCorresponding value:",
        begin="",
        references=find_texts(record, "answer", place),
        match=match_substring,
        group=place,
        ends=never_ends,
    )


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)


def read_niah(path: Path) -> BenchmarkData:
    """RULER's needles in HELMET's wording: several answers are asked for where a record has several."""
    records = list(read_benchmark_records(path))
    questions = [_ask_niah(place, record) for place, record in records]
    long = any("uuid" in find_text(record, "type_needle_v", place) for place, record in records)
    return BenchmarkData(questions, 100 if long else 50, "end", "string_match")


def _ask_niah(place: str, record: Record) -> BenchmarkQuestion:
    kind, query = find_text(record, "type_needle_v", place), find_text(record, "query", place)
    references = find_texts(record, "answer" if "answer" in record else "outputs", place)
    if len(references) > 1:
        opening, asked, verb = f"Some special magic {kind} are", f"What are all the special magic {kind}", "are"
    else:
        opening, asked, verb = f"A special magic {kind} is", f"What is the special magic {kind}", "is"
    where = f"for {query} mentioned in the provided text"

    def holds_all(written: str) -> bool:
        return match_recall(references, written) == 1

    return BenchmarkQuestion(
        before=(
            f"{opening} hidden within the following text. Make sure to memorize it. "
            f"I will quiz you about the {kind} afterwards.\n"
        ),
        context=find_text(record, "context", place),
        after=f"\n{asked} {where}?\nThe special magic {kind} {where} {verb}",
        begin="",
        references=references,
        match=match_recall,
        group=place,
        ends=holds_all,
    )
