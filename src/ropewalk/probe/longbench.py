"""LongBench v2 and LongBench Pro: their files, prompts and scores.

The prompts are those of the benchmarks (Bai et al. 2024, 2412.15204, published under MIT; Chen et al. 2026, 2601.02872,
under Apache-2.0), because a score means something only for the same question. LongBench Pro's summaries are judged by
an embedding model, so they are left out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.core.quantity import format_count
from ropewalk.probe.benchmark_question import BenchmarkData, BenchmarkQuestion, never_ends
from ropewalk.probe.benchmark_records import find_text, find_texts, read_benchmark_records, refuse_record
from ropewalk.probe.longbench_scores import match_first, match_order, match_pairs, match_set, match_share
from ropewalk.probe.prompt import Language

_CHOICES = "ABCD"
_V2_BEGIN = "The correct answer is"
_LETTER = re.compile(rf"{_V2_BEGIN} \(([A-D])\)")
_BARE_LETTER = re.compile(rf"{_V2_BEGIN} ([A-D])")
_V2_PARTS = {"length": ("short", "medium", "long"), "difficulty": ("easy", "hard")}

_LANGUAGES: Mapping[str, Language] = {"English": "en", "Chinese": "zh"}
_PRO_BEGIN: Mapping[Language, str] = {"en": "\n\n[Answer]\n", "zh": "\n\n[答案]\n"}
_PRO_LENGTHS = ("8k", "16k", "32k", "64k", "128k", "256k")
_PRO_SCORES: Mapping[str, Callable[[Sequence[str], str], float]] = {
    **dict.fromkeys(("T1.1", "T1.2"), match_order),
    **dict.fromkeys(("T2.1", "T2.2", "T6.3"), match_pairs),
    **dict.fromkeys(("T3.1", "T3.2", "T11.1", "T11.2"), match_first),
    **dict.fromkeys(("T5.1", "T5.2", "T6.2", "T7.1", "T7.2", "T7.3", "T9.1", "T9.2"), match_set),
    **dict.fromkeys(("T6.1", "T8.1", "T8.2", "T8.3", "T10.1", "T10.2"), match_share),
}
_JUDGED = ("T4.1", "T4.2")


def read_longbench_v2(path: Path, *, begin_answer: bool) -> BenchmarkData:
    """The questions of LongBench v2's data.json, in four choices. Raises UserError for any other file."""
    questions = [_ask_v2(record, place, begin_answer) for place, record in read_benchmark_records(path)]
    return BenchmarkData(questions, 128, "middle", "accuracy")


def _ask_v2(record: Mapping[str, Any], place: str, begin_answer: bool) -> BenchmarkQuestion:
    answer = find_text(record, "answer", place)
    if answer not in tuple(_CHOICES):
        raise refuse_record(place, f"answer is {answer!r}, not A, B, C or D")
    parts = tuple(_find_part(record, key, known, place) for key, known in _V2_PARTS.items())
    question = find_text(record, "question", place).strip()
    choices = "".join(f"({letter}) {find_text(record, f'choice_{letter}', place).strip()}\n" for letter in _CHOICES)
    return BenchmarkQuestion(
        before="Please read the following text and answer the question below.\n\n<text>\n",
        context=find_text(record, "context", place).strip(),
        after=(
            f"\n</text>\n\nWhat is the correct answer to this question: {question}\n"
            f'Choices:\n{choices}\nFormat your response as follows: "The correct answer is (insert answer here)".'
        ),
        begin=f"\n\n{_V2_BEGIN}" if begin_answer else "",
        references=(answer,),
        match=_match_letter,
        group=find_text(record, "_id", place),
        parts=parts,
        ends=_has_letter,
    )


def find_letter(written: str) -> str | None:
    """The choice that a text names: the first letter in brackets after the words asked for, else the first bare one."""
    text = written.replace("*", "")
    found = _LETTER.search(text) or _BARE_LETTER.search(text)
    return None if found is None else found.group(1)


def _match_letter(references: Sequence[str], written: str) -> float:
    return float(find_letter(written) == references[0])


def _has_letter(written: str) -> bool:
    return _LETTER.search(written.replace("*", "")) is not None


def _find_part(record: Mapping[str, Any], key: str, known: Sequence[str], place: str) -> str:
    value = find_text(record, key, place)
    if value not in known:
        raise refuse_record(place, f"{key} is {value!r}, not one of {', '.join(known)}")
    return value


def read_longbench_pro(path: Path, *, language: Language | None, begin_answer: bool) -> BenchmarkData:
    """The questions of longbench_pro.json, in one language or both; summaries (T4) are left out.

    Raises UserError for any other file.
    """
    questions: list[BenchmarkQuestion] = []
    judged = 0
    for place, record in read_benchmark_records(path):
        task = find_text(record, "secondary_task", place).partition(" ")[0]
        spoken = _LANGUAGES[_find_part(record, "language", tuple(_LANGUAGES), place)]
        if language not in (None, spoken):
            continue
        if task in _JUDGED:
            judged += 1
            continue
        if task not in _PRO_SCORES:
            raise refuse_record(place, f"secondary_task {record['secondary_task']!r} is none of LongBench Pro's 25")
        questions.append(_ask_pro(record, place, spoken, begin_answer, _PRO_SCORES[task]))
    left_out = f"{format_count(judged, 'summary')} (T4) not scored: that needs an embedding model" if judged else ""
    return BenchmarkData(questions, 1024, "middle", "score", left_out)


def _ask_pro(
    record: Mapping[str, Any],
    place: str,
    language: Language,
    begin_answer: bool,
    match: Callable[[Sequence[str], str], float],
) -> BenchmarkQuestion:
    length = _find_part(record, "token_length", _PRO_LENGTHS, place)
    return BenchmarkQuestion(
        before="",
        context=find_text(record, "context", place),
        after=f"\n\n\n\n{find_text(record, 'question_nonthinking', place)}".rstrip(),
        begin=_PRO_BEGIN[language] if begin_answer else "",
        references=find_texts(record, "answer", place),
        match=match,
        group=str(record.get("id", place)),
        parts=(language, f"{language}/{length}"),
        language=language,
        ends=never_ends,
    )
