"""One pass over items: against plain transformers in float64, against a loop, and on any number of ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float64, Int64
from transformers import AutoModelForCausalLM

from ropewalk.evaluate.items import Item, Sums, deal, measure, pack_items
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.launch import run_ranks

GROUPS = 5


def make_items(lengths: list[int]) -> list[Item]:
    random = np.random.default_rng(0)
    return [Item(random.integers(900, size=length), random.integers(-1, GROUPS, size=length)) for length in lengths]


def open_learner(folder: Path) -> ModelWithLoss:
    return ModelWithLoss(load_model(folder)).requires_grad_(False)


def brute_logits(folder: Path, tokens: Int64[np.ndarray, "tokens"]) -> Float64[np.ndarray, "tokens vocabulary"]:  # noqa: F821 - an axis
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None]).logits[0].numpy()


def test_sums_equal_plain_transformers_in_float64(models: dict[str, Path]) -> None:
    items = make_items([200, 1, 33, 2, 64, 150])
    truth = np.zeros((3, GROUPS))
    for item in items:
        logits = brute_logits(models["base"], item.tokens)
        for place in range(1, len(item.tokens)):
            group, label = item.group[place], item.tokens[place]
            if group >= 0:
                row = logits[place - 1]
                nll = np.log(np.exp(row - row.max()).sum()) + row.max() - row[label]
                truth[:, group] += 1, nll, row.argmax() == label
    sums = measure(open_learner(models["base"]), items, GROUPS, name="test")
    np.testing.assert_array_equal(sums.count, truth[0])
    np.testing.assert_allclose(sums.nll, truth[1], rtol=2e-6)
    np.testing.assert_array_equal(sums.correct, truth[2])


def test_what_the_model_would_write_is_what_counts_as_right(models: dict[str, Path]) -> None:
    """Text written greedily, token by token; then every third token is another one, and the rest goes on from it."""
    model = AutoModelForCausalLM.from_pretrained(models["base"], dtype=torch.float32)
    tokens = [5]
    for place in range(1, 60):
        with torch.no_grad():
            chosen = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        tokens.append((chosen + 1) % 900 if place % 3 == 0 else chosen)
    item = Item(np.array(tokens), np.arange(60))
    sums = measure(open_learner(models["base"]), [item], 60, name="test")
    assert sums.count.tolist() == [0] + [1] * 59
    assert sums.correct.tolist() == [0] + [float(place % 3 != 0) for place in range(1, 60)]


def test_any_number_of_ranks_gives_the_same_sums(models: dict[str, Path]) -> None:
    items = make_items([90, 300, 4, 17, 250, 64, 64, 8])

    def work() -> Sums:
        return measure(open_learner(models["base"]), items, GROUPS, name="test")

    alone = work()
    for ranks in (2, 3):
        for sums in run_ranks(work, ranks):
            np.testing.assert_array_equal(sums.count, alone.count)
            np.testing.assert_array_equal(sums.correct, alone.correct)
            np.testing.assert_allclose(sums.nll, alone.nll, rtol=1e-6)


def test_ranks_without_work_do_no_harm(models: dict[str, Path]) -> None:
    sums = run_ranks(lambda: measure(open_learner(models["base"]), make_items([12]), GROUPS, name="test"), 2)
    np.testing.assert_array_equal(sums[0].count, sums[1].count)


@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_every_item_is_dealt_once_and_loads_are_even(ranks: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 4096, size=300).tolist()
    shares = deal(lengths, ranks)
    assert sorted(index for share in shares for index in share) == list(range(300))
    loads = [sum(lengths[index] * (1 + lengths[index] / 1024) for index in share) for share in shares]
    assert max(loads) < 1.02 * np.mean(loads)


def test_rows_keep_order_and_hold_what_fits() -> None:
    items = make_items([10, 20, 70, 200, 5, 5])
    rows = [[len(item.tokens) for item in row] for row in pack_items(items, sequence_tokens=100)]
    assert rows == [[10, 20, 70], [200], [5, 5]]
