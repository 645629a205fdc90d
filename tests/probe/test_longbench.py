"""LongBench v2 and Pro: prompts and scores of small records that are written by hand, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ropewalk.core.error import UserError
from ropewalk.probe.longbench import find_letter, read_longbench_pro, read_longbench_v2
from ropewalk.probe.longbench_scores import match_first, match_order, match_pairs, match_set, match_share

V2: dict[str, Any] = {
    "_id": "one", "domain": "Novel", "sub_domain": "Detective", "difficulty": "hard", "length": "short",
    "question": " Who locked the gate? ", "choice_A": "Ada", "choice_B": "Ben", "choice_C": "Cleo", "choice_D": "Dan",
    "answer": "C", "context": "\nCleo turned the key twice. The others slept.\n",
}  # fmt: skip
PRO: dict[str, Any] = {
    "id": "p1", "context": "Ship A left on Monday. Ship B left on Tuesday.", "language": "English",
    "token_length": "8k", "primary_task": "T3. Evidence-Grounded QA", "secondary_task": "T3.2 Single-Hop Fact QA",
    "contextual_requirement": "Partial", "question_nonthinking": "When did ship A leave? Write [Answer], then the day.",
    "question_thinking": "Think first.", "answer": ["Monday"], "difficulty": "Easy",
}  # fmt: skip


def write(folder: Path, *records: Any, name: str = "data.json") -> Path:
    path = folder / name
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_a_choice_is_asked_in_the_benchmark_s_words(name: str, tmp_path: Path) -> None:
    data = read_longbench_v2(write(tmp_path, V2, name=name), begin_answer=True)
    (asked,) = data.questions
    text = asked.before + asked.context + asked.after
    assert "<text>\nCleo turned the key twice. The others slept.\n</text>" in text
    assert "question: Who locked the gate?\nChoices:\n(A) Ada\n(B) Ben\n(C) Cleo\n(D) Dan\n\nFormat" in text
    assert (asked.parts, data.cut, data.generated_tokens) == (("short", "hard"), "middle", 128)
    assert asked.score(" (C) Cleo") == asked.score(" C") == asked.score(" **(C)**") == 1
    assert asked.score(" (B), or perhaps (C)") == asked.score("") == asked.score(" Dan") == 0
    assert asked.score(" Cleo") == 1, "the benchmark takes the first letter of a name, too"
    assert asked.ends(asked.begin + " (B)") and not asked.ends(asked.begin + " B")
    (alone,) = read_longbench_v2(write(tmp_path, V2), begin_answer=False).questions
    assert alone.begin == "" and alone.score("C") == 0 and alone.score("The correct answer is (C).") == 1


def test_a_letter_in_brackets_comes_before_a_bare_one() -> None:
    assert find_letter("The correct answer is A. No: The correct answer is (B)") == "B"
    assert find_letter("the correct answer is (A)") is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"answer": "E"}, "answer is 'E'"),
        ({"choice_D": None}, "choice_D is missing"),
        ({"length": "8k"}, "not one of short, medium, long"),
        ({"context": ["a"]}, "context is a list"),
    ],
)
def test_a_record_of_another_form_is_named(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        read_longbench_v2(write(tmp_path, V2, V2 | change), begin_answer=True)
    assert refused.value.where.endswith("record 2") and why in refused.value.why


@pytest.mark.parametrize("content", ["", "{", "[]", "[3]", '{"rows": []}'])
def test_a_file_that_is_no_list_of_records_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(UserError, match="a benchmark's file cannot be read"):
        read_longbench_v2(tmp_path / "data.json", begin_answer=True)


def test_both_languages_are_read_and_summaries_are_left_out(tmp_path: Path) -> None:
    chinese = PRO | {"id": "p2", "language": "Chinese", "token_length": "16k", "answer": ["星期一"]}
    summary = PRO | {"id": "p3", "secondary_task": "T4.2 Query-Focused Summary"}
    path = write(tmp_path, PRO, chinese, summary)
    data = read_longbench_pro(path, language=None, begin_answer=True)
    first, second = data.questions
    assert first.before + first.context + first.after == PRO["context"] + "\n\n\n\n" + PRO["question_nonthinking"]
    assert (first.parts, second.parts) == (("en", "en/8k"), ("zh", "zh/16k"))
    assert second.language == "zh" and second.score("星期一\n") == 1 and first.score("monday ") == 1
    assert "1 summary (T4) not scored" in data.left_out
    (only,) = read_longbench_pro(path, language="zh", begin_answer=True).questions
    assert only.group == "p2"
    with pytest.raises(UserError, match="a benchmark's file") as refused:
        read_longbench_pro(write(tmp_path, PRO | {"secondary_task": "T12.1 New"}), language=None, begin_answer=True)
    assert "T12.1 New" in refused.value.why


def test_the_five_scores_on_answers_worked_out_by_hand() -> None:
    keys = ["One", "two  x", "three"]
    written = "thinking\nOne\n[Answer]\ntwo x\nONE\nfour"
    assert match_first(keys, written) == 0 and match_first(["two x"], written) == 1
    assert match_share(keys, written) == pytest.approx(2 / 3)
    assert match_set(keys, written) == pytest.approx(2 * 2 / 6)
    assert match_pairs(keys, written) == 0 and match_pairs(["two x", "one", "four"], written) == 1
    # gains 2, 3, 0 at ranks 1, 2, 3; the best order has 3, 2, 1
    best = 3 + 2 / math.log2(3) + 1 / 2
    assert match_order(keys, written) == pytest.approx((2 + 3 / math.log2(3)) / best)
    assert match_order(keys, "one\ntwo x\nthree") == pytest.approx(1)
    for match in (match_first, match_share, match_set, match_pairs, match_order):
        assert match(keys, "") == 0


def test_an_order_counts_as_many_lines_as_there_are_references() -> None:
    assert match_order(["a", "b"], "x\ny\na\nb") == 0
    assert match_order(["a", "b"], "x\na\nb") == pytest.approx(2 / math.log2(3) / (2 + 1 / math.log2(3)))


def test_a_line_that_is_repeated_has_its_last_place() -> None:
    assert match_pairs(["a", "b"], "a\nb\na") == 0
    assert match_order(["a", "b"], "a\nb\na") == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))
