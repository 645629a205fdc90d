"""Golden cases of the published benchmarks: records in their form, what a model writes, and the published rule's score.

Each score was worked out by hand from the rule; slow_benchmark_scores.py, which tells the rules and their sources,
must agree with it, and so must the readers, which see the record as a file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slow_benchmark_scores as slow
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.benchmark_suite import plan_benchmarks
from ropewalk.probe.benchmark_question import BenchmarkQuestion
from ropewalk.probe.helmet import read_json_kv, read_niah, read_rag
from ropewalk.probe.longbench import read_longbench_pro, read_longbench_v2
from ropewalk.recipe.benchmarks import BenchmarkSpec

V2: dict[str, Any] = {
    "_id": "v2-1", "domain": "Single-Document QA", "sub_domain": "Legal", "difficulty": "easy", "length": "medium",
    "question": "Which clause ends the lease?", "choice_A": "Clause 2", "choice_B": "Clause 7",
    "choice_C": "Clause 9", "choice_D": "None", "answer": "B", "context": "Clause 7: the lease ends in May.",
}  # fmt: skip
PRO: dict[str, Any] = {
    "context": "材料一。材料二。", "primary_task": "T", "contextual_requirement": "Full", "difficulty": "Easy",
    "question_nonthinking": "请先写 [答案]，再逐行作答。", "question_thinking": "想一想。", "token_length": "8k",
}  # fmt: skip
RAG: dict[str, Any] = {"question": "q", "ctxs": [{"title": "t", "text": "c"}]}
KV: dict[str, Any] = {"context": "{}", "question": "k", "demos": [["x", "1"], ["y", "2"]], "num_kvs": 2}
NIAH: dict[str, Any] = {"context": "c", "query": "oak", "type_needle_v": "numbers"}

ANSWER = "The correct answer is"


def read_one(reader: Callable[..., Any], folder: Path, record: dict[str, Any], **keys: Any) -> BenchmarkQuestion:
    path = folder / "data.jsonl"
    path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    (question,) = reader(path, **keys).questions
    assert isinstance(question, BenchmarkQuestion)
    return question


@pytest.mark.parametrize(
    ("written", "score"),
    [
        (f"{ANSWER} (B).", 1),
        (f"**{ANSWER} (B)**", 1),
        (f"{ANSWER} B, since the lease ends in May.", 1),
        (f"{ANSWER} A at first sight. But {ANSWER} (B)", 1),  # brackets go first, wherever they stand
        (f"{ANSWER} (A). Sorry, {ANSWER} (B)", 0),  # of two in brackets the first
        (f"{ANSWER} (E) or {ANSWER} (B)", 1),  # E is no choice
        (f"{ANSWER} Buried in clause 7", 1),  # the bare form takes the letter of a word
        (f"the correct answer is (B), {ANSWER}: (B)", 0),  # neither another case nor a colon
        ("正确答案是（B）", 0),
        ("(B)", 0),
        ("", 0),
    ],
)
def test_longbench_v2(written: str, score: float, tmp_path: Path) -> None:
    question = read_one(read_longbench_v2, tmp_path, V2, begin_answer=False)
    assert (slow.choose_letter(written) == V2["answer"]) == score
    assert question.score(written) == score


NDCG_OF_SWAPPED = (2 + 3 / np.log2(3) + 1 / 2) / (3 + 2 / np.log2(3) + 1 / 2)
"""Of three references the first two exchanged: gains 2, 3, 1 instead of 3, 2, 1."""
NDCG_BEHIND_ONE = (3 / np.log2(3) + 2 / 2) / (3 + 2 / np.log2(3) + 1 / 2)
"""A wrong line before the right order: gains 0, 3, 2 within the first three."""


@pytest.mark.parametrize(
    ("task", "metric", "answers", "written", "score"),
    [
        ("T3.2 Single-Hop Fact QA", "accuracy", ["周五"], "想了想。\n[答案]\n周五", 1),
        ("T3.2 Single-Hop Fact QA", "accuracy", ["周五"], "[答案]\n周四\n周五", 0),  # only the first line counts
        ("T3.2 Single-Hop Fact QA", "accuracy", ["周五"], "【答案】\n周五", 0),  # full-width brackets are no mark
        ("T3.2 Single-Hop Fact QA", "accuracy", ["周五"], "[答案]\n周四\n[答案]\n 周五 ", 1),  # the last mark
        ("T11.1 Long-Range Tracking", "accuracy", ["New  York"], "[Answer]\nnew york\n[答案]\nx", 1),
        ("T3.1 Multi-Doc Integration QA", "accuracy", ["1 11"], "[Answer]111", 0),  # spaces are kept
        ("T3.1 Multi-Doc Integration QA", "accuracy", ["甲"], "", 0),
        ("T5.1 Full-Sentence Citation Alignment", "f1", ["1", "2", "4"], "[Answer]\n1\n2\n3", 2 / 3),
        ("T7.3 Comprehensive Error & Anomaly Sweep", "f1", ["a"], "[Answer]\na\n\na\nb", 1 / 2),  # an empty line counts
        ("T9.2 Localized Interface Change Detection", "f1", ["a"], "[Answer]\n", 0),
        ("T6.1 Large-Scale Document Clustering", "subem", ["a b", "c d"], "[Answer]\nA  B\nd c", 1 / 2),
        ("T8.2 Single-Source Targeted Aggregation", "subem", ["12", "12"], "[Answer]\n12", 1),
        ("T10.1 Large-Scale In-Context Rule Induction", "subem", ["rule"], "no mark, one rule", 0),
        ("T2.1 Global Timeline Reconstruction", "pairs", ["a", "b", "c"], "[Answer]\na\nc\nb", 2 / 3),
        ("T2.2 Local Causal Chain Sorting", "pairs", ["a", "b", "c"], "[Answer]\na\nb\nc\nd", 3 / 6),  # over all lines
        ("T6.3 Global Frequency Analysis", "pairs", ["a", "b"], "[Answer]\na", 0),
        ("T6.3 Global Frequency Analysis", "pairs", ["a", "b", "b"], "[Answer]\na\nb", 0),  # 2 of 1 pairs: an error
        ("T1.1 Global Cohesive Retrieval", "ndcg", ["a", "b", "c"], "[Answer]\na\nb\nc", 1),
        ("T1.1 Global Cohesive Retrieval", "ndcg", ["a", "b", "c"], "[Answer]\nb\na\nc", NDCG_OF_SWAPPED),
        ("T1.2 Key-Snippet Retrieval", "ndcg", ["a", "b", "c"], "[Answer]\nx\na\nb\nc", NDCG_BEHIND_ONE),
        ("T1.2 Key-Snippet Retrieval", "ndcg", ["a", "b", "c"], "[Answer]\nx\ny", 0),
    ],
)  # fmt: skip
def test_longbench_pro(task: str, metric: str, answers: list[str], written: str, score: float, tmp_path: Path) -> None:
    record = PRO | {"id": "p", "language": "Chinese", "secondary_task": task, "answer": answers}
    question = read_one(read_longbench_pro, tmp_path, record, language=None, begin_answer=False)
    assert slow.score_pro(metric, answers, written) == pytest.approx(score)
    assert question.score(written) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answers", "written", "score"),
    [
        (["The Danube"], " Danube\n", 1),
        (["Danube"], " the river Danube, in Vienna", 1),
        (["Danube"], "Answer: danube.", 1),
        (["U.S.A.", "America"], " usa", 1),
        (["Rhine"], " Danube", 0),
        (["Theodore"], " odore", 0),  # an article goes only as a whole word
        (["an A"], " nothing", 1),  # of two articles nothing is left, and nothing is everywhere
        (["Danube"], "", 0),
        (["多瑙河"], " 多瑙河。", 1),
        (["多瑙 河"], " 多瑙河", 0),
    ],
)
def test_helmet_rag(answers: list[str], written: str, score: float, tmp_path: Path) -> None:
    question = read_one(read_rag, tmp_path, RAG | {"answers": answers}, demos=None, shots=0)
    assert slow.score_substring(answers, written, prefix="Answer:") == question.score(written) == score
    nested = read_one(read_rag, tmp_path, RAG | {"answers": [answers]}, demos=None, shots=0)
    assert nested.score(written) == score, "a list of lists is one list"


@pytest.mark.parametrize(
    ("written", "score"),
    [
        (" 3f0c-a1", 1),
        (' "3F0C-A1",', 1),
        (" wrong\nCorresponding value: 3f0ca1", 1),
        (" 3f0c a1", 0),
        ("3f0c-a", 0),
        ("", 0),
    ],
)
def test_helmet_json_kv(written: str, score: float, tmp_path: Path) -> None:
    question = read_one(read_json_kv, tmp_path, KV | {"answer": "3f0c-a1"}, shots=2)
    assert slow.score_substring(["3f0c-a1"], written, prefix="Corresponding value:") == score
    assert question.score(written) == score


@pytest.mark.parametrize(
    ("answers", "written", "score"),
    [
        (["7151"], " 7151.", 1),
        (["7151"], " 71 51", 0),
        (["7151", "88"], " 88 and 7151", 1),  # in any order
        (["7151", "88", "9"], " 889", 2 / 3),  # within another number
        (["aB-c"], "AB-C", 1),
        (["7151"], "", 0),
    ],
)
def test_helmet_needles(answers: list[str], written: str, score: float, tmp_path: Path) -> None:
    for key in ("answer", "outputs"):
        question = read_one(read_niah, tmp_path, NIAH | {key: answers})
        assert slow.score_recall(answers, written) == question.score(written) == pytest.approx(score)


PIECES = ("a\n", "the b\n", "c.\n", "乙\n", "a", "the b", "[Answer]", "[答案]", "\n", " ", "answer: ", "*",
          f"{ANSWER} (", f"{ANSWER} C", "C", "C)", "B)")  # fmt: skip


def test_random_outputs_have_the_scores_of_the_slow_rules(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    scores = {"T3.1": "accuracy", "T5.1": "f1", "T6.1": "subem", "T2.1": "pairs", "T1.1": "ndcg"}
    answers = ["the b", "c.", "A", "乙"]
    pro = {
        metric: read_one(
            read_longbench_pro, tmp_path, PRO | {"language": "English", "secondary_task": f"{task} x",
            "answer": answers}, language=None, begin_answer=False)
        for task, metric in scores.items()
    }  # fmt: skip
    v2 = read_one(read_longbench_v2, tmp_path, V2 | {"answer": "C"}, begin_answer=False)
    rag = read_one(read_rag, tmp_path, RAG | {"answers": answers[:2]}, demos=None, shots=0)
    seen = dict.fromkeys((*pro, "v2", "rag"), 0.0)
    for _ in range(1000):
        written = "".join(PIECES[n] for n in rng.integers(len(PIECES), size=rng.integers(20)))
        for metric, question in pro.items():
            assert question.score(written) == pytest.approx(slow.score_pro(metric, answers, written)), written
            seen[metric] += question.score(written)
        assert v2.score(written) == (slow.choose_letter(written) == "C"), written
        assert rag.score(written) == slow.score_substring(answers[:2], written, prefix="Answer:"), written
        seen["v2"], seen["rag"] = seen["v2"] + v2.score(written), seen["rag"] + rag.score(written)
    assert min(seen.values()) > 2, "each rule gave points"


@pytest.mark.parametrize("most", [300, 301])
def test_of_a_long_prompt_the_first_and_last_half_are_read(most: int, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """With an odd number of tokens the benchmark leaves one unused; here it goes to the first half."""
    path = tmp_path / "data.json"
    path.write_text(json.dumps([V2 | {"context": " ".join(f"clause {n}" for n in range(900))}]))
    spec = BenchmarkSpec.model_validate(
        {"kind": "longbench_v2", "path": str(path), "begin_answer": False, "generated_tokens": 20}
    )
    (cut,) = plan_benchmarks([spec], tokenizer, longest_tokens=most + 20, seed=1)
    question = cut.questions[0]
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    text = question.before + question.context + question.after
    kept = slow.keep_ends(tokenizer.encode(text).tolist(), most - len(bos))
    prompt = cut.prompts[0].tolist()
    if len(prompt) > len(bos) + len(kept):
        del prompt[len(bos) + len(kept) // 2]
    assert prompt == bos + kept
