"""HELMET's recall and RAG: prompts and scores of small records that are written by hand, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from ropewalk.core.error import UserError
from ropewalk.probe.helmet import match_recall, match_substring, read_json_kv, read_niah, read_rag

RAG: dict[str, Any] = {
    "id": "q1", "question": "who painted the bridge", "answers": ["The Lee sisters", "Lee"],
    "ctxs": [{"title": "Bridge", "text": "Lee painted it."}, {"title": "Tower", "text": "It is tall.", "depth": 1}],
}  # fmt: skip
KV: dict[str, Any] = {
    "context": '{"a": "1", "b": "2"}', "question": "b", "answer": "2f-9", "num_kvs": 2,
    "demos": [["x", "8"], ["y", "9"]],
}  # fmt: skip
NIAH: dict[str, Any] = {
    "context": "Wind. The number is 71. Rain.", "query": "oak", "type_needle_v": "numbers", "outputs": ["71"],
}  # fmt: skip


def write(folder: Path, *records: Any, name: str = "test.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_question_with_documents_and_solved_ones(tmp_path: Path) -> None:
    solved = [RAG | {"id": f"d{n}", "question": f"question {n}", "answers": [f"answer {n}"]} for n in range(4)]
    demos = write(tmp_path, RAG, *solved, *solved, name="demos.jsonl")
    data = read_rag(write(tmp_path, RAG), demos=demos, shots=2)
    (asked,) = data.questions
    assert asked.context == "Document (Title: Bridge): Lee painted it.\n\nDocument (Title: Tower): It is tall."
    assert asked.after == "\n\nQuestion: who painted the bridge\nAnswer:"
    shown = [n for n in range(4) if f"Question: question {n}\nAnswer: answer {n}\n\n" in asked.before]
    assert len(shown) == asked.before.count("Question:") == 2, "two different ones, and never the question itself"
    assert asked.score(" the LEE sisters.") == 1 and asked.score(" Li") == 0
    assert asked.ends(" Lee\nQuestion") and not asked.ends(" Lee")
    assert (data.generated_tokens, data.cut, data.metric) == (20, "end", "substring_match")
    (plain,) = read_rag(write(tmp_path, RAG), demos=None, shots=0).questions
    assert plain.before.endswith("Answer: [answer]\n\n")


def test_popular_questions_are_left_out_as_in_the_benchmark(tmp_path: Path) -> None:
    path = write(tmp_path, RAG | {"s_pop": 999}, RAG | {"id": "q2", "s_pop": 1000})
    assert [each.group for each in read_rag(path, demos=None, shots=0).questions] == ["q1"]


def test_a_key_is_looked_up(tmp_path: Path) -> None:
    (asked,) = read_json_kv(write(tmp_path, KV), shots=1).questions
    assert asked.before + asked.context + asked.after == (
        '{"a": "1", "b": "2"}\n\nExtract the value corresponding to the specified key in the JSON object below.\n\n'
        "Key: x\nCorresponding value: 8\n\nKey: b\nCorresponding value:"
    )
    assert asked.score(" 2F-9, of course") == 1 and asked.score(" 2f9x") == 1 and asked.score(" 2g-9") == 0


def test_one_needle_and_several(tmp_path: Path) -> None:
    several = NIAH | {"answer": ["71", "5"], "outputs": [], "type_needle_v": "uuids"}
    data = read_niah(write(tmp_path, NIAH, several))
    one, two = data.questions
    assert one.before.startswith("A special magic numbers is") and one.after.endswith("in the provided text is")
    assert two.before.startswith("Some special magic uuids are") and two.after.endswith("in the provided text are")
    assert data.generated_tokens == 100 and one.ends(" 71") and not two.ends(" 71")
    assert one.score(" 717") == 1 and two.score(" 71 and 6") == 0.5


def test_articles_and_punctuation_do_not_count() -> None:
    assert match_substring(["The U.S. Navy"], "a US navy ship") == 1
    assert match_recall(["The U.S."], "us") == 0


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (RAG | {"ctxs": "text"}, "ctxs is not a list"),
        (RAG | {"answers": []}, "answers has no text"),
        (RAG | {"answers": [3]}, "answers is a int"),
        (RAG | {"s_pop": 0}, "s_pop is 0"),
    ],
)
def test_a_record_of_another_form_is_named(record: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        read_rag(write(tmp_path, RAG, record), demos=None, shots=0)
    assert refused.value.where.endswith("line 2") and why in refused.value.why
    with pytest.raises(UserError) as refused:
        read_json_kv(write(tmp_path, KV | {"demos": [["x", "8"]]}), shots=2)
    assert "2 or more pairs" in refused.value.why
