"""RULER end to end on a small model: lengths are met, what is written is scored, and the effective length is found."""

from pathlib import Path

import numpy as np
import pytest

from ropewalk.core.record import Score
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate import ruler_suite
from ropewalk.evaluate.evaluate import evaluate_models, measure_model
from ropewalk.evaluate.ruler_suite import RulerPrompts, plan_ruler, read_answers, summarize_ruler
from ropewalk.evaluate.written_text import WrittenText
from ropewalk.model.greedy_writer import Written
from ropewalk.recipe.ruler import RulerSpec
from ropewalk.recipe.spec import EvaluateSpec

SPEC = RulerSpec(tasks=("niah_single_1", "vt", "qa_1"), samples=3)


def test_prompt_and_generated_tokens_fill_a_length_together(tokenizer: Tokenizer) -> None:
    planned = plan_ruler(RulerSpec(samples=3), tokenizer, lengths=[4096], seed=1)
    assert len({each.spec.task for each in planned}) == 13
    for each in planned:
        used = [len(question) + each.spec.generated_tokens for question in each.questions]
        assert len(used) == 3 and max(used) <= 4096 and np.mean(used) > 0.85 * 4096, each.spec.task
        for question, sample in zip(each.questions, each.samples, strict=True):
            assert tokenizer.decode(question[1:]) == sample.question


def test_a_length_that_is_too_short_is_left_out(tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_ruler(RulerSpec(tasks=("cwe",), samples=2), tokenizer, lengths=[64], seed=1) == []
    assert "ruler/cwe is not measured at 64 tokens" in capsys.readouterr().err


def test_it_is_measured_beside_the_rest(models: dict[str, Path]) -> None:
    spec = EvaluateSpec(lengths=(16, 24), answers=4, ruler=SPEC)
    scores = evaluate_models({"base": models["base"]}, spec, corpus=None, base_context_tokens=64)
    assert scores is not None
    tasks = {score.task for score in scores}
    for task in SPEC.tasks:
        assert {f"ruler/{task}", f"retrieval/ruler_{task}", f"answer_loss/ruler_{task}"} <= tasks
        mine = [score for score in scores if score.task == f"ruler/{task}"]
        assert [score.context_tokens for score in mine] == [1024, 1536]
        assert all(score.value == 0 and score.samples == 3 and score.metric == "string_match" for score in mine)
    (reach,) = [score for score in scores if score.task == "ruler/effective_length"]
    assert reach.value == 0


def test_the_answers_are_read_with_the_prompts(models: dict[str, Path], tokenizer: Tokenizer) -> None:
    """The sums are those of a reading of their own, and a prompt of each length is read once."""
    planned = plan_ruler(SPEC, tokenizer, lengths=[1024, 1536], seed=1)
    asked = read_answers(planned, depths=5)
    found, _ = ruler_suite.measure_ruler(models["base"], planned, tokenizer, SPEC, name="m", precision="float32")
    expected = measure_model(models["base"], asked, name="m", precision="float32")
    for mine, wanted, each in zip(found, expected, asked, strict=True):
        assert len(mine.count) == each.groups and np.array_equal(mine.count, wanted.count)
        assert mine.nll == pytest.approx(wanted.nll, rel=1e-5) and np.array_equal(mine.correct, wanted.correct)


def test_a_model_that_writes_the_references_gets_all_points(
    models: dict[str, Path], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan_ruler(SPEC, tokenizer, lengths=[1024], seed=1)

    def write(learner: object, each: RulerPrompts, tokenizer: object) -> list[WrittenText]:
        read = [Written([], np.zeros(len(answer)), np.ones(len(answer), dtype=bool)) for answer in each.answers]
        texts = [f"they are {' and '.join(sample.references)}." for sample in each.samples]
        return [WrittenText(text, one) for text, one in zip(texts, read, strict=True)]

    monkeypatch.setattr(ruler_suite, "write_answers", write)
    _, scores = ruler_suite.measure_ruler(models["base"], planned, tokenizer, SPEC, name="m", precision="float32")
    values = {score.task: score.value for score in scores}
    assert [values[f"ruler/{task}"] for task in (*SPEC.tasks, "mean")] == [1, 1, 1, 1]
    assert values["ruler/effective_length"] == 1024


def test_the_effective_length_is_the_largest_above_the_threshold() -> None:
    def make(tokens: int, value: float) -> Score:
        return Score("m", "ruler/vt", "string_match", tokens, None, "en", 99, value, value - 0.05, value + 0.05, 99)

    scores = [make(4096, 0.97), make(8192, 0.87), make(16384, 0.82), make(32768, 0.3)]
    *means, reach = summarize_ruler(scores, model="m", threshold=0.856)
    assert [mean.value for mean in means] == pytest.approx([0.97, 0.87, 0.82, 0.3])
    assert (reach.value, reach.low, reach.high, reach.metric) == (8192, 4096, 16384, "tokens")
