"""The grid as a measurement: every cell has the same samples, and its scores and their section name all three axes."""

import numpy as np
import pytest

from ropewalk.core.record import Score
from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.controlled_grid import plan_grid
from ropewalk.evaluate.items import Sums
from ropewalk.evaluate.retrieval import Retrieval
from ropewalk.evaluate.score import wilson_of_prompts
from ropewalk.recipe.grid import GridSpec

LENGTHS = [400, 800]


def plan(tokenizer: Tokenizer, **keys: object) -> list[Retrieval]:
    spec = GridSpec.model_validate(
        {"prompts": 3, "tasks": ["lookup", "latest"], "fillers": ["repeated", "facts"], **keys}
    )
    return plan_grid(spec, tokenizer, lengths=LENGTHS, depths=4, seed=7)


def score(found: Retrieval, correct: np.ndarray) -> list[Score]:
    count = np.ones(found.groups)
    return list(found.score(Sums(count, 2.0 * count, correct), model="base"))


def test_every_length_has_the_same_samples_at_every_depth(tokenizer: Tokenizer) -> None:
    planned = plan(tokenizer)
    assert [each.task for each in planned] == [
        f"grid/{a}/{b}" for a in ("lookup", "latest") for b in ("repeated", "facts")
    ]
    for each in planned:
        assert each.sample is not None and each.groups == 2 * 4 * 3
        for sample in range(6):
            mine = np.flatnonzero(each.sample == sample)
            assert sorted(each.depth[mine]) == [0.125, 0.375, 0.625, 0.875]
            assert set(each.context_tokens[mine]) == {LENGTHS[sample // 3]}
            lengths = [len(each.items[i].tokens) for i in mine]
            assert max(lengths) <= LENGTHS[sample // 3] and max(lengths) - min(lengths) <= 3
            assert min(lengths) > 0.85 * LENGTHS[sample // 3]
            words = [sorted(tokenizer.decode(each.items[i].tokens[1:].tolist()).split()) for i in mine]
            assert all(other == words[0] for other in words), "cells of a row differ in the place of the fact alone"
    answers = [[tokenizer.decode(item.tokens[item.group >= 0].tolist()) for item in each.items] for each in planned]
    assert answers[0] == answers[1] and answers[2] == answers[3] and len(set(answers[0])) == 6


def test_a_row_counts_samples_and_a_cell_its_own_prompts(tokenizer: Tokenizer) -> None:
    """Half of the samples right at every depth: twelve prompts tell no more than three samples."""
    found = plan(tokenizer)[0]
    assert found.sample is not None
    scores = score(found, (found.sample % 2 == 0).astype(float))
    row = next(each for each in scores if each.metric == "accuracy" and each.depth is None)
    assert (row.n, row.samples) == (12, 3) and row.design_effect is not None and row.design_effect > 3
    cells = [each for each in scores if each.metric == "accuracy" and each.depth is not None]
    assert len(cells) == 8 and all((each.n, each.samples) == (3, 3) for each in cells)
    losses = {each.task for each in scores if each.metric == "nats"}
    assert losses == {"answer_loss/grid/lookup/repeated"}


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_row_that_is_all_right_or_all_wrong_counts_samples_too(tokenizer: Tokenizer, right: float) -> None:
    """There no spread shows that the prompts of a sample are right together; three samples stay three."""
    found = plan(tokenizer)[0]
    row = next(each for each in score(found, np.full(found.groups, right)) if each.metric == "accuracy")
    _, low, high = wilson_of_prompts(np.full(3, right), np.ones(3))
    assert row.design_effect == 4 and row.n / row.design_effect == 3
    assert row.high - row.low >= high - low > 0.5


def test_a_length_that_is_too_short_is_told_and_left_out(tokenizer: Tokenizer, capsys) -> None:
    spec = GridSpec(tasks=("latest",), fillers=("words",), prompts=2, language="zh")
    (found,) = plan_grid(spec, tokenizer, lengths=[30, 500], depths=2, seed=7)
    assert set(found.context_tokens) == {500} and found.task == "grid/latest/words_zh"
    assert "grid/latest/words_zh is not measured at 30 tokens" in capsys.readouterr().err
