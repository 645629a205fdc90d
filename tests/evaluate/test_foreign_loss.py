"""Text outside the mix: what is read, what is refused, and a gate that finds forgetting and raises no false alarm."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from made_texts import han, sentence
from ropewalk.core.error import UserError
from ropewalk.corpus.embedded import EMBEDDED, FOREIGN, embedded_documents, read_foreign_documents
from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.ability_loss import plan_ability_loss
from ropewalk.evaluate.evaluate import evaluate_models
from ropewalk.evaluate.foreign_loss import ForeignLoss, plan_foreign_loss
from ropewalk.evaluate.items import Item, Sums
from ropewalk.evaluate.score import Estimate, largest_of
from ropewalk.evaluate.stage_gate import TRAINED, judge_gates
from ropewalk.evaluate.student_t import standard_errors
from ropewalk.recipe.foreign_text import ForeignText
from ropewalk.recipe.gates import Gate
from ropewalk.recipe.spec import EvaluateSpec

SIZES = {"law": 12, "novels": 30, "poems": 20}
GATE = Gate(foreign_loss=0.01)


def invented_plan() -> ForeignLoss:
    ends = np.cumsum(list(SIZES.values())).tolist()
    ranges = {name: (end - size, end) for (name, size), end in zip(SIZES.items(), ends, strict=True)}
    item = Item(np.zeros(2, dtype=np.int64), np.array([-1, ends[-1] - 1]))
    return ForeignLoss([item], ranges, dict.fromkeys(SIZES, "en"), 512, vocabulary=100)


PLAN = invented_plan()


def judge(seed: int, *, change: float, where: str | None = None) -> bool | None:
    """The gate's verdict on a model whose loss differs by ``change``, and in each document by 2 % more or less."""
    plan, random = PLAN, np.random.default_rng(seed)
    count = random.integers(150, 500, size=plan.groups).astype(float)
    before = count * random.normal(3, 0.6, size=plan.groups).clip(1)
    true = np.full(plan.groups, 0.0 if where else change)
    if where:
        true[slice(*plan.sources[where])] = change
    after = before * (1 + true + random.normal(0, 0.02, size=plan.groups))
    zeros = np.zeros(plan.groups)
    changes = plan.score_change(Sums(count, before, zeros), Sums(count, after, zeros), model=TRAINED)
    (verdict,) = judge_gates(GATE, list(changes), before="base")
    return verdict.met


def test_five_percent_is_caught_and_nothing_is_seldom_taken_for_it() -> None:
    assert [judge(seed, change=0.05) for seed in range(20)] == [False] * 20
    assert [judge(seed, change=0.05, where="law") for seed in range(20)] == [False] * 20
    assert sum(judge(seed, change=0.0) is False for seed in range(200)) <= 2


def test_a_text_that_the_base_cannot_read_decides_nothing() -> None:
    count, zeros = np.full(PLAN.groups, 100.0), np.zeros(PLAN.groups)
    before = count * np.random.default_rng(0).normal(3, 0.1, size=PLAN.groups)
    first, end = PLAN.sources["poems"]
    before[first:end] = 5 * 100  # a uniform guess among 100 tokens costs 4.6
    after = before * 1.002
    after[first:end] *= 1.2
    scores = {s.task: s for s in PLAN.score_change(Sums(count, before, zeros), Sums(count, after, zeros), model="m")}
    assert scores["change/foreign/poems"].value == pytest.approx(0.2024)
    assert scores["change/foreign_worst"].value == pytest.approx(0.002) == scores["change/foreign_mean"].value
    changes = list(PLAN.score_change(Sums(count, before, zeros), Sums(count, after, zeros), model=TRAINED))
    (verdict,) = judge_gates(GATE, changes, before="base")
    assert verdict.met is True and "worst in" in verdict.text and "poems" not in verdict.text
    unread = Sums(count, np.full(PLAN.groups, 500.0), zeros)
    (verdict,) = judge_gates(GATE, list(PLAN.score_change(unread, unread, model=TRAINED)), before="base")
    assert verdict.met is None and "uniform guess" in verdict.text


def test_the_largest_of_several_lies_in_its_interval_as_often_as_told() -> None:
    random = np.random.default_rng(0)
    truths, held = np.array([0.0, 0.01, -0.02, 0.01]), 0
    for _ in range(400):
        drawn = random.normal(truths, 0.01, size=(12, 4))
        parts = [Estimate(float(x.mean()), float(x.std(ddof=1)) / 12**0.5, 11, 12) for x in drawn.T]
        value, low, high = largest_of(parts)
        assert low <= value <= high
        held += low <= truths.max() <= high
    assert held >= 0.94 * 400
    assert standard_errors(11, 0.99) == pytest.approx(3.1058, abs=1e-4)
    assert standard_errors(5000, 0.99) == pytest.approx(2.5766, abs=1e-3)


def test_built_in_text_is_no_source_of_a_corpus() -> None:
    assert not set(FOREIGN) & set(EMBEDDED)
    for name in FOREIGN:
        documents = list(read_foreign_documents(name))
        assert len(documents) >= 16 and len({each.id for each in documents}) == len(documents)
        assert all(len(each.text) > 150 and each.language == FOREIGN[name].language for each in documents)
        with pytest.raises(UserError, match="never trained on"):
            list(embedded_documents(name, seed=0, size_bytes=100))


def foreign(folder: Path, name: str, texts: list[str]) -> ForeignText:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return ForeignText(name=name, path=str(path))


def test_documents_of_the_mix_are_refused_and_others_read(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    strange = [sentence(9000 + n, 90) for n in range(9)]
    asked = {"corpus": corpus, "context_tokens": 64, "tokens": 400}
    plan = plan_foreign_loss([foreign(tmp_path, "strange", strange)], tokenizer, **asked)  # type: ignore[arg-type]
    assert plan is not None and 400 <= sum(len(item.tokens) for item in plan.items) < 464
    for known in (sentence(3, 20 + 36) + "  \n", han(1003, 150)):  # with other white space than in the corpus
        with pytest.raises(UserError, match="foreign text leak is in the mix"):
            plan_foreign_loss([foreign(tmp_path, "leak", [*strange[:2], known])], tokenizer, **asked)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has a source prose"):
        plan_foreign_loss([foreign(tmp_path, "prose", strange)], tokenizer, **asked)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="exactly one of path, embedded"):
        ForeignText(name="both", path="x", embedded="essays_en")


def test_a_single_book_is_cut_into_its_sample(tokenizer: Tokenizer, tmp_path: Path) -> None:
    book = foreign(tmp_path, "book", [" ".join(sentence(n, 40) for n in range(20))])
    plan = plan_foreign_loss([book], tokenizer, corpus=None, context_tokens=64, tokens=640)
    assert plan is not None and plan.groups == len(plan.items) == 10


def test_every_model_is_scored_and_changes_are_pairs(models: dict[str, Path], corpus: Corpus) -> None:
    spec = EvaluateSpec.model_validate(
        {
            "lengths": [1],
            "answers": 4,
            "documents": 2,
            "short_tokens": 256,
            "pairs": [2, 2],
            "foreign": [{"name": "essays_zh", "embedded": "essays_zh"}],
            "abilities": 8,
        }
    )
    scores = evaluate_models(models, spec, corpus=corpus.folder, base_context_tokens=256)
    assert scores is not None
    tasks = {name: {score.task for score in scores if score.model == name} for name in models}
    one = {"foreign/essays_zh", "ability/arithmetic", "ability/cloze", "ability/cloze_zh"}
    assert one <= tasks["base"] and one <= tasks["extended"]
    changes = {f"change/{task}" for task in one} | {"change/ability_mean"}
    assert changes <= tasks["extended"] and not changes & tasks["base"]
    assert "change/foreign_worst" not in tasks["extended"], "a model of random weights cannot read it"


def test_ability_prompts_ask_each_fact_once(tokenizer: Tokenizer) -> None:
    plan = plan_ability_loss(tokenizer, context_tokens=400, prompts=100, seed=0)
    assert plan is not None and list(plan.sources) == ["arithmetic", "cloze", "cloze_zh"]
    first, end = plan.sources["cloze"]
    lines = [line for item in plan.items[first:end] for line in tokenizer.decode(item.tokens).split("\n") if line]
    assert len(lines) == len(set(lines)) == 60
    sums = tokenizer.decode(plan.items[0].tokens[plan.items[0].group >= 0])
    assert sums.strip()[-1].isdigit()
    assert plan_ability_loss(tokenizer, context_tokens=8, prompts=2, seed=0) is None
