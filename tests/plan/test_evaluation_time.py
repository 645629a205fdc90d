"""The forecast of the evaluation counts the models and the tokens that an evaluation reads, at its own precision."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planned_recipe import make_planned
from ropewalk.commands import evaluate as evaluate_verb
from ropewalk.core.run_folder import RunFolder
from ropewalk.core.seed import stream
from ropewalk.evaluate.gain_by_distance import GainByDistance
from ropewalk.evaluate.loss_by_context import LossByContext
from ropewalk.evaluate.loss_by_position import PositionLoss
from ropewalk.plan.evaluation_time import count_measured_models, estimate_evaluation, list_forwards
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.hardware import KNOWN
from ropewalk.plan.step_time import FITTED
from ropewalk.probe.held_out_tasks import HeldOutTask
from ropewalk.probe.key_value import KeyValue
from ropewalk.probe.kinds import Probe, count_answers, make_prompt
from ropewalk.probe.needle import Needle
from ropewalk.probe.passkey import Passkey
from ropewalk.probe.ruler import CommonWords, NeedleAmongNeedles, VariableTracking
from ropewalk.probe.ruler_task import RULER_NAMES, RulerTask
from ropewalk.probe.word_tasks import WordTask
from ropewalk.recipe.spec import EvaluateSpec
from search_cases import SHAPES

LLAMA = SHAPES["8b"]
INIT = {"layers": 1, "width": 8, "heads": 1, "kv_heads": 1, "head_dim": 8, "mlp_width": 8, "context_length": 64,
        "tokenizer": 300}  # fmt: skip
PROBES: list[Probe] = [
    KeyValue(), KeyValue(pairs=(4, 8)), KeyValue(questions=2), Passkey(), Needle(), Needle(questions=3),
    VariableTracking(hops=2), CommonWords(), NeedleAmongNeedles(), WordTask(task="labels"), WordTask(task="copy"),
    HeldOutTask(task="counting"), *(RulerTask(task=name) for name in RULER_NAMES),
]  # fmt: skip


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: f"{probe.kind}-{getattr(probe, 'task', '')}")
def test_a_prompt_has_as_many_answers_as_are_counted(probe: Probe) -> None:
    made = [len(make_prompt(probe, stream("count", number), words=2000).answers) for number in range(40)]
    assert np.mean(made) == pytest.approx(count_answers(probe), rel=0.15)


@pytest.mark.parametrize(("base_tokens", "multiple"), [(96, 8), (512, 4), (100, 2)])
def test_each_document_is_read_as_often_as_the_measurements_read_it(base_tokens: int, multiple: int) -> None:
    whole = multiple * base_tokens
    texts = [np.zeros(whole, dtype=np.int64)] * 3
    position = PositionLoss(texts, base_tokens, multiple)
    gain = GainByDistance([("law", text) for text in texts], base_tokens, multiple)
    read = Counter[int]()
    for item in (*position.items, *gain.items):
        read[len(item.tokens)] += len(item.tokens)
    few, many = (
        _count(EvaluateSpec(position_lengths=multiple, documents=documents), base_tokens) for documents in (1, 4)
    )
    assert many - few == read
    law = LossByContext(texts, [whole >> power for power in range(7)])
    if whole % 64 == 0:
        asked = _count(EvaluateSpec(position_lengths=multiple, documents=3, context_law=True), base_tokens)
        plain = _count(EvaluateSpec(position_lengths=multiple, documents=3), base_tokens)
        assert (asked - plain).total() == sum(len(item.tokens) for item in law.items)


def _count(spec: EvaluateSpec, base_tokens: int) -> Counter[int]:
    found = Counter[int]()
    for length, tokens in list_forwards(spec, base_tokens, sources=1):
        found[length] += round(tokens)
    return found


def test_as_many_models_are_counted_as_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(evaluate_verb, "require", lambda folder, verb: folder)
    monkeypatch.setattr(evaluate_verb, "base_model", lambda folder, recipe: tmp_path)
    monkeypatch.setattr(evaluate_verb, "measure_models", lambda recipe, folder, models: measured.append(len(models)))
    given: list[tuple[list[dict[str, object]], dict[str, Any]]] = [
        ([{}], {}), ([{}, {"context_length": "64Ki"}], {}), ([{}], {"model": {"init": INIT}}),
    ]  # fmt: skip
    for stages, keys in given:
        recipe = make_planned(stages, **keys)
        evaluate_verb.evaluate_run(recipe, RunFolder(tmp_path))
        assert count_measured_models(recipe) == measured[-1]
    assert measured == [3, 2, 1]


def test_the_precision_of_the_evaluation_counts_and_not_that_of_training() -> None:
    """``auto`` is bfloat16 on a GPU; an H100 multiplies float32 15 times more slowly."""
    asked: dict[str, Any] = {"hardware": "h100-sxm x 8", "parallel": {"ranks": 8, "precision": "bfloat16"}}
    wide, narrow, auto = (
        make_planned(evaluate={"precision": each}, **asked) for each in ("float32", "bfloat16", "auto")
    )
    plan = forecast_recipe(narrow, LLAMA)[-1]
    times = [estimate_evaluation(each, LLAMA, plan) for each in (wide, narrow, auto)]
    assert times[0] / times[1] == pytest.approx(989 / 67) and times[2] == times[1]
    only = make_planned(evaluate={"precision": "bfloat16", "lengths": [1], "answers": 600, "position_lengths": 1,
                                  "documents": 1, "short_tokens": 1}, **asked)  # fmt: skip
    base = LLAMA.context_tokens  # 600 answers are 100 prompts, and there is one document
    linear, pairs = 2 * (LLAMA.parameters - LLAMA.vocabulary * LLAMA.width), base / 2 * LLAMA.layers
    each = FITTED.products["hopper"] * linear / KNOWN["h100-sxm"].matmul_flops
    each += 4 * LLAMA.query_width * pairs / KNOWN["h100-sxm"].attention_forward_flops
    assert estimate_evaluation(only, LLAMA, plan) == pytest.approx(3 * 101 * base * each / 8, rel=0.01)
