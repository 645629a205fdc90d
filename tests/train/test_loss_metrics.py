"""Sums by source, position and document length against a plain loop over tokens."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ropewalk.partition import partition_tokens
from ropewalk.train.batches import MicroBatch
from ropewalk.train.loss_metrics import LossMetrics


def make_micro(tokens: int) -> tuple[MicroBatch, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(-1, 2, (tokens,), generator=generator, dtype=torch.int32)
    weights = torch.rand(tokens, generator=generator) * (source >= 0)
    positions = torch.randint(64, (tokens,), generator=generator, dtype=torch.int32)
    ids = torch.zeros(tokens, dtype=torch.int32)
    partition = partition_tokens(np.zeros((1, tokens), np.int32), ranks=1)
    nll = torch.rand(tokens, generator=generator) * (weights > 0)
    correct = (torch.rand(tokens, generator=generator) < 0.5) & (weights > 0)
    lengths = torch.randint(1, 65, (tokens,), generator=generator)
    return MicroBatch(ids, positions, ids, weights, source=source, lengths=lengths, partition=partition), nll, correct


def test_every_figure_equals_a_plain_loop() -> None:
    micro, nll, correct = make_micro(200)
    loss_metrics = LossMetrics(("a", "b", "silent"), reach_tokens=64)
    assert loss_metrics.borders == [0, 4, 8, 16, 32, 64]
    table = loss_metrics.count(micro, nll, correct)
    groups = {"source/a": [], "source/b": [], "source/silent": []} | {
        f"{kind}/{low}-{high}": [] for kind in ("position", "length") for low, high in pairwise(loss_metrics.borders)
    }
    for token in range(200):
        if micro.source[token] < 0:
            continue
        values = (micro.weights[token].item(), nll[token].item(), correct[token].item())
        groups[f"source/{'ab'[micro.source[token]]}"].append(values)
        position = micro.positions[token].item()
        for low, high in pairwise(loss_metrics.borders):
            if low <= position < high:
                groups[f"position/{low}-{high}"].append(values)
            if low < micro.lengths[token].item() <= high:
                groups[f"length/{low}-{high}"].append(values)
    expected = {}
    for name, values in groups.items():
        weight = sum(w for w, _, _ in values)
        if weight:
            expected[f"loss/{name}"] = sum(w * n for w, n, _ in values) / weight
            expected[f"accuracy/{name}"] = sum(w * c for w, _, c in values) / weight
        if values and name.startswith("source/"):
            expected[f"tokens/{name}"] = len(values)
    found = {row.name: row.value for row in loss_metrics.averages(table.flatten().tolist(), stage=0, step=1)}
    assert found == pytest.approx(expected)
    total = sum((micro.weights * nll).double()) / sum(micro.weights.double())
    assert loss_metrics.loss(table)[0] == pytest.approx(float(total))
    assert loss_metrics.tokens(table) == int((micro.source >= 0).sum())


def test_roles_and_languages_are_sums_of_their_sources() -> None:
    micro, nll, correct = make_micro(200)
    kinds = {"a": ("role/general", "language/en"), "b": ("role/domain", "language/en")}
    loss_metrics = LossMetrics(("a", "b", "silent"), reach_tokens=64, kinds=kinds)
    table = loss_metrics.count(micro, nll, correct)
    assert table.shape == LossMetrics(("a", "b", "silent"), reach_tokens=64).shape, "checkpoints keep their sums"
    found = {row.name: row.value for row in loss_metrics.averages(table.flatten().tolist(), stage=0, step=1)}
    assert found["loss/role/domain"] == found["loss/source/b"] != found["loss/source/a"] == found["loss/role/general"]
    assert found["loss/language/en"] == pytest.approx(loss_metrics.loss(table)[0])
    assert found["accuracy/language/en"] == pytest.approx(loss_metrics.loss(table)[1])


def test_small_contexts_have_fewer_buckets() -> None:
    assert LossMetrics(("a",), reach_tokens=4).borders == [0, 1, 2, 4]
