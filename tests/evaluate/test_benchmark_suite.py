"""Benchmarks on the user's files: prompts are cut where the benchmark cuts them, and scores have their parts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_texts import sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate import evaluate as rooms
from ropewalk.evaluate.benchmark_suite import plan_benchmarks, score_benchmark
from ropewalk.evaluate.evaluate import evaluate_models
from ropewalk.recipe.benchmarks import BenchmarkSpec
from ropewalk.recipe.load import parse_evaluate


@pytest.fixture
def choices(tmp_path: Path) -> Path:
    """Six questions of LongBench v2's form; the last two are long."""
    letters = {f"choice_{letter}": sentence(n, 3) for n, letter in enumerate("ABCD")}
    records: list[dict[str, Any]] = [
        {**letters, "_id": str(n), "difficulty": "easy" if n % 2 else "hard", "length": "medium" if n > 3 else "short",
         "question": sentence(50 + n, 5), "answer": "ABCD"[n % 4], "context": sentence(n, 900 if n > 3 else 20)}
        for n in range(6)
    ]  # fmt: skip
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    return path


def spec(path: Path, **keys: Any) -> BenchmarkSpec:
    return BenchmarkSpec.model_validate({"kind": "longbench_v2", "path": str(path), **keys})


def test_a_long_prompt_loses_its_middle_and_is_counted(
    choices: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [spec(choices, generated_tokens=20)]
    (cut,) = plan_benchmarks(given, tokenizer, longest_tokens=600, seed=1)
    (whole,) = plan_benchmarks(given, tokenizer, longest_tokens=100_000, seed=1)
    end = len(tokenizer.encode_inside(cut.questions[0].begin))
    for short, full, left in zip(cut.prompts, whole.prompts, cut.cut_tokens, strict=True):
        assert len(short) == min(len(full), 580) and len(short) + left == len(full)
        if left:
            half = (580 - end) // 2
            assert np.array_equal(short[:half], full[:half]) and np.array_equal(short[-half:], full[-half:])
    assert [left > 0 for left in cut.cut_tokens] == [False] * 4 + [True] * 2 and not any(whole.cut_tokens)
    assert "benchmark/longbench_v2: 2 of 6 prompts are cut to 600 tokens" in capsys.readouterr().err
    with pytest.raises(UserError, match="no room for a question"):
        plan_benchmarks(given, tokenizer, longest_tokens=100, seed=1)


def test_of_documents_the_end_is_cut(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "rag.jsonl"
    texts = [{"title": "one", "text": sentence(1, 60)}, {"title": "two", "text": sentence(2, 600)}]
    path.write_text(json.dumps({"question": "which one", "answers": ["two"], "ctxs": texts}))
    given = spec(path, kind="helmet_rag", shots=0)
    (planned,) = plan_benchmarks([given], tokenizer, longest_tokens=400, seed=1)
    text = tokenizer.decode(planned.prompts[0])
    assert len(planned.prompts[0]) == 380 and planned.cut_tokens[0] > 0
    assert sentence(1, 60) in text and sentence(2, 600) not in text
    assert text.endswith("\n\nQuestion: which one\nAnswer:")


def test_scores_have_parts_with_intervals_over_independent_questions(choices: Path, tokenizer: Tokenizer) -> None:
    (planned,) = plan_benchmarks([spec(choices)], tokenizer, longest_tokens=600, seed=1)
    texts = [f" ({each.references[0] if n < 3 else 'x'})" for n, each in enumerate(planned.questions)]
    scores = {each.task: each for each in score_benchmark(planned, texts, model="m")}
    names = {"": 3 / 6, "/short": 3 / 4, "/medium": 0, "/hard": 2 / 3, "/easy": 1 / 3, "/cut": 2 / 6}
    assert {task: each.value for task, each in scores.items()} == {
        f"benchmark/longbench_v2{part}": value for part, value in names.items()
    }
    every = scores["benchmark/longbench_v2"]
    assert 0.15 < every.low < 0.5 < every.high < 0.85 and (every.n, every.samples, every.metric) == (6, 6, "accuracy")
    (few,) = plan_benchmarks([spec(choices, samples=2)], tokenizer, longest_tokens=600, seed=1)
    assert len(few.questions) == 2
    # six records of one question are one sample
    one = planned.questions[0]
    same = [type(one)(one.before, one.context, one.after, one.begin, one.references, one.match, "q") for _ in texts]
    planned.questions[:] = same
    (alone, *_) = score_benchmark(planned, texts, model="m")
    assert alone.samples == 1 and alone.high - alone.low > 0.7
    # three records of each of two questions, all wrong: two independent answers, though no spread shows it
    planned.questions[:] = [replace(one, group="pq"[n % 2]) for n in range(6)]
    (paired, *_) = score_benchmark(planned, [""] * 6, model="m")
    assert (paired.samples, paired.design_effect) == (2, 3) and paired.high > 0.6


def test_a_model_is_measured_on_the_files_and_the_base_once(
    choices: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    measure = rooms.measure_benchmarks

    def count(folder: Path, *given: Any, **options: Any) -> Any:
        read.append(folder.name)
        return measure(folder, *given, **options)

    monkeypatch.setattr(rooms, "measure_benchmarks", count)
    keys = f"benchmarks=[{{kind: longbench_v2, path: {choices}, name: mine, samples: 2, generated_tokens: 4}}]"
    asked = parse_evaluate(["lengths=[8]", "answers=2", keys], {})
    given = {"base": models["base"]}
    for _ in range(2):
        scores = evaluate_models(given, asked, corpus=None, base_context_tokens=64, store=tmp_path / "store")
        assert scores is not None
        mine = {score.task: score for score in scores if score.task.startswith("benchmark/")}
        assert mine["benchmark/mine"].context_tokens == 512 and mine["benchmark/mine"].n == 2
    assert read == ["base"]
    choices.write_text(choices.read_text().replace('"answer": "A"', '"answer": "B"'))
    evaluate_models(given, asked, corpus=None, base_context_tokens=64, store=tmp_path / "store")
    assert read == ["base", "base"], "another file under the same name is another measurement"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"kind": "helmet_summ"}, "helmet_summ is not measured: a judge model scores it"),
        ({"kind": "helmet_rag"}, "needs a file of solved examples"),
        ({"language": "zh"}, "language has no effect on longbench_v2"),
        ({"kind": "helmet_niah", "begin_answer": False}, "begin_answer has no effect"),
    ],
)
def test_a_key_without_effect_and_a_judge_are_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        spec(Path("data.json"), **keys)
    twice = "benchmarks=[{kind: longbench_v2, path: a.json}, {kind: longbench_v2, path: b.json}]"
    with pytest.raises(UserError) as refused:
        parse_evaluate([twice], {})
    assert "two benchmarks are named longbench_v2" in str(refused.value)
